//! The standard variables of OpenTelemetry, laid over the file.
//!
//! They win over the file, as the OpenTelemetry specification asks of variables against
//! configuration in code. An empty variable counts as unset. A number or a name that cannot be
//! understood is ignored with a warning (specification, "Environment Variable Specification");
//! an endpoint or a header that cannot be used is an error, because spans would go nowhere.

use super::Config;
use super::error::Error;
use super::export::{Compression, Endpoint, Protocol, URL_REMEDY};
use super::sampler::SamplerName;
use meshweft_telemetry::attributes;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// A copy of the environment.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The variable for traces alone, else the one for all signals, with its name.
    fn otlp(&self, suffix: &str) -> Option<(String, &str)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].iter().find_map(|prefix| {
            let name = format!("{prefix}{suffix}");
            let value = self.get(&name)?;
            Some((name, value))
        })
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Lays the variables over `config`. Returns a warning for each one that was ignored.
pub(super) fn apply(environment: &Environment, config: &mut Config) -> Result<Vec<String>, Error> {
    let mut overlay = Overlay { environment, warnings: Vec::new() };
    overlay.export(config)?;
    overlay.batching(config);
    overlay.sampling(config);
    overlay.resource(config);
    Ok(overlay.warnings)
}

struct Overlay<'a> {
    environment: &'a Environment,
    warnings: Vec<String>,
}

impl Overlay<'_> {
    fn ignored(&mut self, name: &str, value: &str, expected: &str) {
        self.warnings.push(format!("{name}: {value:?} is ignored; expected {expected}"));
    }

    fn named<T>(
        &mut self,
        variable: Option<(String, &str)>,
        parse: fn(&str) -> Option<T>,
        expected: &str,
        to: &mut T,
    ) {
        if let Some((name, value)) = variable {
            match parse(value) {
                Some(parsed) => *to = parsed,
                None => self.ignored(&name, value, expected),
            }
        }
    }

    fn number<T: FromStr>(&mut self, name: &str, expected: &str, to: &mut T) {
        let variable = self.environment.get(name).map(|value| (name.to_owned(), value));
        self.named(variable, |value| value.parse().ok(), expected, to);
    }

    fn export(&mut self, config: &mut Config) -> Result<(), Error> {
        let environment = self.environment;
        let export = &mut config.export;
        for (name, parse) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", Endpoint::base as fn(&str) -> Result<Endpoint, String>),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", Endpoint::complete),
        ] {
            if let Some(text) = environment.get(name) {
                export.endpoint = Some(parse(text).map_err(|cause| Error::value(name, cause, URL_REMEDY))?);
            }
        }
        match environment.get("OTEL_TRACES_EXPORTER") {
            None | Some("otlp") => {}
            Some("none") => export.endpoint = None,
            Some(other) => self.ignored("OTEL_TRACES_EXPORTER", other, "otlp or none"),
        }
        let protocol = |value: &str| match value {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::HttpProtobuf),
            _ => None,
        };
        self.named(environment.otlp("PROTOCOL"), protocol, "grpc or http/protobuf", &mut export.protocol);
        let compression = |value: &str| match value {
            "none" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            _ => None,
        };
        self.named(environment.otlp("COMPRESSION"), compression, "gzip or none", &mut export.compression);
        let timeout = environment.otlp("TIMEOUT");
        self.named(timeout, positive_millis, "a number of milliseconds above 0", &mut export.timeout);
        if let Some((_, file)) = environment.otlp("CERTIFICATE") {
            export.ca_file = Some(file.into());
        }
        if let Some((name, list)) = environment.otlp("HEADERS") {
            const REMEDY: &str = "write name=value pairs separated by commas, values percent-encoded";
            for (key, value) in pairs(list).map_err(|cause| Error::value(&name, cause, REMEDY))? {
                export.headers.add(&key, &value).map_err(|cause| Error::value(&name, cause, REMEDY))?;
            }
        }
        Ok(())
    }

    fn batching(&mut self, config: &mut Config) {
        let export = &mut config.export;
        let delay = self.environment.get("OTEL_BSP_SCHEDULE_DELAY");
        let delay = delay.map(|value| ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), value));
        self.named(delay, millis, "a number of milliseconds", &mut export.delay);
        self.number("OTEL_BSP_MAX_QUEUE_SIZE", "a number of spans", &mut export.queue);
        self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "a number of spans", &mut export.batch);
        // The specification wants a batch that fits the queue; a small queue alone is no mistake.
        let variable = |name| self.environment.get(name).is_some();
        if variable("OTEL_BSP_MAX_QUEUE_SIZE") && !variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") {
            export.batch = export.batch.min(export.queue);
        }
    }

    fn sampling(&mut self, config: &mut Config) {
        let sampling = &mut config.sampling;
        let sampler = self.environment.get("OTEL_TRACES_SAMPLER");
        let sampler = sampler.map(|value| ("OTEL_TRACES_SAMPLER".to_owned(), value));
        let expected = "always_on, always_off, traceidratio or one of these with parentbased_";
        self.named(sampler, SamplerName::from_name, expected, &mut sampling.sampler);
        let ratio = |value: &str| value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        let argument = self.environment.get("OTEL_TRACES_SAMPLER_ARG");
        let argument = argument.map(|value| ("OTEL_TRACES_SAMPLER_ARG".to_owned(), value));
        self.named(argument, ratio, "a number from 0 to 1", &mut sampling.ratio);
    }

    fn resource(&mut self, config: &mut Config) {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        if let Some(list) = self.environment.get(NAME) {
            match pairs(list) {
                Ok(pairs) => config.resource.extend(pairs),
                // Resource SDK, "Specifying resource information via an environment variable":
                // in case of any error the entire value is discarded.
                Err(cause) => self.ignored(NAME, list, &format!("key=value pairs ({cause})")),
            }
        }
        // The spans belong to workloads, whose names are known better than by the agent's own.
        if config.resource.remove(attributes::SERVICE_NAME).is_some()
            || self.environment.get("OTEL_SERVICE_NAME").is_some()
        {
            self.warnings.push(
                "service.name is ignored: each workload keeps its own; set it on the workload instead"
                    .to_owned(),
            );
        }
    }
}

fn millis(text: &str) -> Option<Duration> {
    // u32: 49 days are more than any of these needs, and timers overflow on much more.
    text.parse::<u32>().ok().map(|millis| Duration::from_millis(u64::from(millis)))
}

fn positive_millis(text: &str) -> Option<Duration> {
    millis(text).filter(|duration| !duration.is_zero())
}

/// `key=value` pairs separated by commas, percent-encoded: W3C Baggage without its properties.
fn pairs(list: &str) -> Result<Vec<(String, String)>, String> {
    list.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or("a pair without =")?;
            let key = percent_decode(key.trim())
                .filter(|key| !key.is_empty())
                .ok_or("a key that cannot be decoded")?;
            let value = percent_decode(value.trim())
                .ok_or_else(|| format!("a value of {key:?} that cannot be decoded"))?;
            Ok((key, value))
        })
        .collect::<Result<_, String>>()
}

/// Decodes `%XX`. `None` where a `%` stands without two hex digits or the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_with(variables: &[(&str, &str)]) -> (Config, Vec<String>) {
        Config::from_yaml("", &variables.iter().copied().collect()).unwrap()
    }

    #[test]
    fn the_variable_for_traces_wins_over_the_general_one() {
        let (config, warnings) = config_with(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/in"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1"),
        ]);
        let endpoint = config.export.endpoint.unwrap();
        assert_eq!(endpoint.request_url(config.export.protocol), "http://traces:4318/in");
        assert_eq!(config.export.timeout, Duration::from_millis(1500));
        let headers: Vec<_> =
            config.export.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(headers, [("api-key", "a b"), ("x", "1")]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"), ("OTEL_BSP_MAX_QUEUE_SIZE", "9")];
        let file = "export: {endpoint: 'http://file:4318', queue: 1000, batch: 100}";
        let (config, _) = Config::from_yaml(file, &environment.into_iter().collect()).unwrap();
        assert_eq!(config.export.endpoint, Some(Endpoint::base("http://env:4318").unwrap()));
        assert_eq!((config.export.queue, config.export.batch), (9, 9));
    }

    #[test]
    fn numbers_and_names_that_make_no_sense_are_ignored_with_a_warning() {
        let (config, warnings) = config_with(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b"),
        ]);
        assert_eq!(warnings.len(), 7, "{warnings:?}");
        assert!(warnings[0].starts_with("OTEL_TRACES_EXPORTER"), "{warnings:?}");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let (config, warnings) =
            config_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_TRACES_SAMPLER", " ")]);
        assert_eq!(config, Config::default());
        assert!(warnings.is_empty());
    }

    #[test]
    fn resource_attributes_are_taken_but_not_the_service_name() {
        let (config, warnings) =
            config_with(&[("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=a%2Cb,service.name=agent")]);
        assert_eq!(config.resource.get("k8s.cluster.name").map(String::as_str), Some("a,b"));
        assert_eq!(config.resource.get("service.name"), None);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn percent_decoding_is_total() {
        assert_eq!(percent_decode("10.0.0.1%3A15090").as_deref(), Some("10.0.0.1:15090"));
        for wrong in ["%", "%4", "%zz", "%ff", "é%C3"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }
}
