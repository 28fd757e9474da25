//! Mistakes in the configuration, and the command line.

use crate::running::PATIENCE;
use meshweft::agent;
use meshweft::config::{Config, Environment};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

#[test]
fn each_mistake_is_named_with_its_key_its_cause_and_the_way_out() {
    let mut wrong = Vec::new();
    for (yaml, expected) in [
        ("exprot: {}", "exprot: unknown field `exprot`, expected one of `receiver`, `admin`"),
        ("export: {endpont: x}", "export.endpont: unknown field `endpont`, expected one of `endpoint`"),
        ("receiver:\n  grpc: 4317", "receiver.grpc: invalid"),
        ("receiver: {grpc: localhost}", "receiver.grpc: invalid socket address syntax"),
        (
            "receiver: {socket_mode: '0999'}",
            "receiver.socket_mode: invalid value: string \"0999\", expected an octal mode, such as \"0660\"",
        ),
        (
            "receiver: {max_message_bytes: 4MB}",
            "receiver.max_message_bytes: invalid value: string \"4MB\", expected a number of bytes, such as 65536, 512KiB or 4MiB",
        ),
        (
            "receiver: {max_connections: 0}",
            "receiver.max_connections: 0 lets nothing through; write a larger number",
        ),
        (
            "discovery: {select: [{port: 80}]}",
            "discovery.select[0].port: unknown field `port`, expected one of `ports`",
        ),
        ("discovery: {select: [{ports: 0}]}", "ports from 1 to 65535, such as \"80,8000-8999\""),
        (
            "discovery: {exclude: [{executable: a}, {}]}",
            "discovery.exclude[1]: it has no key and so covers nothing; write at least one of ports, executable and path",
        ),
        (
            "correlation: {window: 2}",
            "correlation.window: invalid type: integer `2`, expected a duration with its unit, such as 500ms, 2s, 5m or 1h",
        ),
        ("capture: {ring_bytes: 1}", "capture.ring_bytes: 1 is not between 4KiB and 1GiB; leave it out"),
        (
            "sampling: {sampler: sometimes}",
            "sampling.sampler: unknown variant `sometimes`, expected one of `always_on`",
        ),
        (
            "sampling: {ratio: 2}",
            "sampling.ratio: 2 is not between 0 and 1; write the share of traces to keep",
        ),
        ("export: {endpoint: 'collector:4317'}", "write a URL such as http://collector:4318"),
        ("export: {endpoint: 'ftp://collector'}", "has the scheme \"ftp\"; write a URL"),
        ("export: {endpoint: 'http://u:p@c'}", "it contains a user name or password; write a URL"),
        (
            "export: {protocol: http/json}",
            "export.protocol: unknown variant `http/json`, expected `grpc` or `http/protobuf`",
        ),
        (
            "export: {headers: {'a b': c}}",
            "\"a b\" is not a header name; write names and values as in HTTP/1.1",
        ),
        (
            "export: {batch: 10, queue: 5}",
            "export.batch: 10 is not between 1 and export.queue (5); lower it, or raise export.queue",
        ),
        ("export: {concurrency: 0}", "export.concurrency: 0 is not between 1 and 64"),
        ("export: {timeout: 0s}", "export.timeout: 0 leaves no time"),
        ("export: {retry: {initial: 1m}}", "export.retry.initial: it is 0 or longer than export.retry.max"),
        (
            "scrape: {targets: [15090]}",
            "scrape.targets[0]: invalid value: string \"15090\", expected HOST:PORT",
        ),
        ("scrape: {targets: ['10.0.0.1']}", "HOST:PORT or NETWORK/BITS:PORT, such as 10.66.0.0/16:15090"),
        ("log: {level: 'a=b=c'}", "log.level: \"a=b=c\" is no filter"),
        ("log: {format: xml}", "log.format: unknown variant `xml`, expected `text` or `json`"),
        ("a: [", "(line 1)"),
        ("- 1", "file: invalid type: sequence, expected struct Config"),
    ] {
        let result = Config::from_yaml(yaml, &Environment::default());
        let said = result.map_or_else(|error| error.to_string(), |_| "nothing".to_owned());
        if !said.contains(expected) {
            wrong.push(format!("{yaml}\n  says: {said}\n  not:  {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (name, value, expected) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "OTEL_EXPORTER_OTLP_ENDPOINT: \"collector:4317\" has",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "secret",
            "OTEL_EXPORTER_OTLP_HEADERS: a pair without =; write name=value",
        ),
    ] {
        let environment = Environment::from_iter([(name, value)]);
        let error = Config::from_yaml("", &environment).expect_err(name).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_without_a_key_is_the_default() {
    for yaml in ["", "# nothing\n", "export:\nreceiver:\n", "{}"] {
        let (config, warnings) = Config::from_yaml(yaml, &Environment::default()).unwrap();
        assert_eq!(config, Config::default(), "{yaml}");
        assert!(warnings.is_empty());
    }
    let (config, _) =
        Config::from_yaml("receiver: {grpc: null, http: ~, socket: null}", &Environment::default()).unwrap();
    assert_eq!((config.receiver.grpc, config.receiver.http, config.receiver.socket), (None, None, None));
}

#[tokio::test]
async fn an_address_in_use_names_its_key() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yaml = format!(
        "receiver: {{grpc: null, http: {}, socket: null}}\nadmin: {{address: null}}",
        taken.local_addr().unwrap()
    );
    let (config, _) = Config::from_yaml(&yaml, &Environment::default()).unwrap();
    let error = agent::build(config).await.err().unwrap();
    let text = format!("{error:#}");
    assert!(
        text.starts_with("receiver.http: cannot listen on") && text.contains("or null to turn it off"),
        "{text}"
    );
}

fn meshweft(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshweft"));
    command.args(arguments).env_clear().kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn check_validates_without_running() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meshweft.yaml");
    let file_name = file.to_str().unwrap();
    let check = ["agent", "--config", file_name, "--check"];

    std::fs::write(&file, format!("receiver: {{socket: {}/agent.sock}}", folder.path().display())).unwrap();
    let output = meshweft(&check).output().await.unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"the configuration is valid\n");
    assert!(!folder.path().join("agent.sock").exists(), "nothing was bound");

    std::fs::write(&file, "export: {endpoint: 'https://c', ca_file: /nowhere/ca.pem}").unwrap();
    let output = meshweft(&check).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && stderr.contains("export.ca_file: cannot read /nowhere/ca.pem"),
        "{stderr}"
    );

    std::fs::remove_file(&file).unwrap();
    let output = meshweft(&check).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && stderr.contains("--config: cannot read"), "{stderr}");

    let output = meshweft(&["--version"]).output().await.unwrap();
    assert_eq!(output.stdout, concat!("meshweft ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
}

#[tokio::test]
async fn sigterm_drains_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meshweft.yaml");
    let socket = folder.path().join("agent.sock");
    let yaml = format!(
        "receiver: {{grpc: 127.0.0.1:0, http: null, socket: {}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         discovery: {{select: []}}\nlog: {{format: json}}",
        socket.display()
    );
    std::fs::write(&file, yaml).unwrap();
    let mut agent = meshweft(&["agent", "--config", file.to_str().unwrap()]).spawn().unwrap();
    let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(line) = log.next_line().await.unwrap() {
            serde_json::from_str::<serde_json::Value>(&line).expect("one object a line");
            if line.contains("no exporter") {
                break;
            }
        }
        let id = i32::try_from(agent.id().unwrap()).unwrap();
        // SAFETY: a signal to the child of this test, which has not been waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        let mut rest = String::new();
        log.into_inner().read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("\"seen\":0,\"exported\":0,\"dropped\":0"), "{rest}");
        agent.wait().await.unwrap()
    });
    assert!(ended.await.expect("the agent ends").success());
    assert!(!socket.exists());
}
