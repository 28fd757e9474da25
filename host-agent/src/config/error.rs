//! What can be wrong with a configuration.

use std::path::PathBuf;

/// A configuration that cannot be used. Each message names the key (or variable), the cause and
/// the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("--config: cannot read {}: {source}; name a file that exists and is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is no YAML, has a key that is unknown, or a value of the wrong type.
    #[error("{key}: {cause} (line {line})")]
    Document {
        /// Path of the key, such as `export.retry.initial`; `file` where it has none.
        key: String,
        /// What is wrong and what was expected.
        cause: String,
        /// Line in the file, counted from 1; 0 where it is not known.
        line: usize,
    },
    /// A value has the right type but cannot be used.
    #[error("{key}: {cause}; {remedy}")]
    Value {
        /// Path of the key, or name of the environment variable.
        key: String,
        /// What is wrong.
        cause: String,
        /// What to write instead.
        remedy: &'static str,
    },
}

impl Error {
    pub(super) fn value(key: impl Into<String>, cause: impl Into<String>, remedy: &'static str) -> Self {
        Self::Value { key: key.into(), cause: cause.into(), remedy }
    }

    /// Takes the parts out of what `serde_yaml_ng` reports, which repeats a part of the path and
    /// the place within its text.
    pub(super) fn document(error: &serde_path_to_error::Error<serde_yaml_ng::Error>) -> Self {
        let path = error.path().to_string();
        let line = error.inner().location().map_or(0, |location| location.line());
        let text = error.inner().to_string();
        let mut cause = text.as_str();
        if let Some((before, _)) = cause.rsplit_once(" at line ") {
            cause = before;
        }
        if let Some((prefix, after)) = cause.split_once(": ")
            && path.starts_with(prefix)
        {
            cause = after;
        }
        let key = if path == "." || path == "?" { "file".to_owned() } else { path };
        Self::Document { key, cause: cause.to_owned(), line }
    }
}
