//! What the documentation names exists: paths of the repository, subcommands of xtask.
//!
//! A path is what stands in backticks or behind a link and has a `/` or the ending of a source
//! file. What the build generates (`dist/`, `target/`), absolute paths, URLs, media types and
//! domain names are none. In blocks of code, and in backticks with several words, a word is a
//! path only where it begins with a folder of the repository.

mod markdown;

use std::{
    fmt, fs, io,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};

use self::markdown::{Kind, Mention};

/// Folders without documentation of ours.
const GENERATED: &[&str] = &["target", "dist", ".git", "corpus", "artifacts", "node_modules"];
/// Names without a `/` that end so are files.
const ENDINGS: &[&str] = &["md", "rs", "toml", "yaml", "yml", "py", "rb", "java", "go", "sh"];
/// First halves of media types (RFC 6838, section 4.2).
const MEDIA: &[&str] = &["application", "text", "image", "multipart", "audio", "video", "font"];

/// Something that a document names and that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    document: String,
    line: usize,
    problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.document, self.line, self.problem)
    }
}

/// Checks every `*.md` below `root`.
///
/// # Errors
/// Where a folder or document cannot be read.
pub(crate) fn check(root: &Path, subcommands: &[String]) -> Result<Vec<Finding>> {
    let mut files = Vec::new();
    walk(root, root, &mut files).context("cannot list the repository's files")?;
    files.sort();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "md")) {
        let text =
            fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for mention in markdown::mentions(&text) {
            let problem = problem(root, folder, &files, subcommands, &mention);
            findings.extend(problem.map(|problem| Finding {
                document: file.display().to_string(),
                line: mention.line,
                problem,
            }));
        }
    }
    Ok(findings)
}

/// Collects files relative to `root`.
fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() {
            let name = entry.file_name();
            if !GENERATED.iter().any(|generated| name == *generated) {
                walk(root, &path, files)?;
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push(relative.to_owned());
        }
    }
    Ok(())
}

fn problem(
    root: &Path,
    folder: &Path,
    files: &[PathBuf],
    subcommands: &[String],
    mention: &Mention<'_>,
) -> Option<String> {
    match mention.kind {
        Kind::Subcommand => (!subcommands.iter().any(|name| name == mention.text))
            .then(|| format!("`cargo xtask {}` is no subcommand", mention.text)),
        Kind::Link => {
            let path = local_link(mention.text)?;
            // A link is relative to its document, and to the root with a leading `/`.
            let exists = match path.strip_prefix('/') {
                Some(path) => exists(root, Path::new(""), path),
                None => exists(root, folder, path),
            };
            (!exists && !is_generated(path)).then(|| format!("the link {path} leads nowhere"))
        }
        Kind::Code => {
            let path = path_like(mention.text)?;
            let found = exists(root, Path::new(""), path)
                || exists(root, folder, path)
                || (!path.contains('/')
                    && files.iter().any(|file| file.file_name().is_some_and(|name| name == path)));
            (!found).then(|| format!("the path {path} does not exist"))
        }
        Kind::Word => {
            let path = path_like(mention.text)?;
            let (first, _) = path.split_once('/')?;
            let ours = !first.is_empty() && first != "." && root.join(first).is_dir();
            (ours && !exists(root, Path::new(""), path)).then(|| format!("the path {path} does not exist"))
        }
    }
}

/// The path of a link into the repository, without its anchor.
fn local_link(target: &str) -> Option<&str> {
    let path = target.split(['#', '?']).next()?;
    // A scheme (RFC 3986, section 3.1) or another host.
    let outside = path.contains(':') || path.starts_with("//");
    (!path.is_empty() && !outside).then_some(path)
}

/// The text as a path of the repository, where it looks like one.
fn path_like(text: &str) -> Option<&str> {
    let path = text.split('#').next()?;
    // `file.rs:12` names a line.
    let path = match path.rsplit_once(':') {
        Some((file, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => file,
        _ => path,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./*".contains(&byte);
    if path.is_empty() || !path.bytes().all(allowed) || path.starts_with('/') || is_generated(path) {
        return None;
    }
    let Some((first, rest)) = path.split_once('/') else {
        let (stem, ending) = path.rsplit_once('.')?;
        return (!stem.is_empty() && !stem.contains('*') && ENDINGS.contains(&ending)).then_some(path);
    };
    // `networking.istio.io/v1`, `10.0.0.0/8`, `127.0.0.1/32`, but not `.ci/run` nor `../x`.
    let domain = first.trim_start_matches('.').contains('.');
    let media = MEDIA.contains(&first) && !rest.contains('/') && !rest.ends_with(".md");
    // `n/a`, `I/O`, `50/50`: too short for a path, or numbers.
    let short = path.len() <= 3 || path.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/');
    // `*/*` and the like say nothing about a folder.
    let wild = first.contains('*');
    (!domain && !media && !short && !wild).then_some(path)
}

fn is_generated(path: &str) -> bool {
    let path = path.trim_start_matches("./");
    ["dist", "target"]
        .iter()
        .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Whether a path below `root` exists, up to its first part with a `*`, which stands for
/// anything. A path that leaves the repository does not.
fn exists(root: &Path, folder: &Path, path: &str) -> bool {
    let mut relative = folder.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !relative.pop() {
                    return false;
                }
            }
            Component::Normal(name) => match name.to_str() {
                Some(pattern) if pattern.contains('*') => {
                    return has_match(&root.join(&relative), pattern);
                }
                _ => relative.push(name),
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    root.join(relative).exists()
}

/// Whether a folder has an entry that fits a pattern with `*`. What stands behind that entry is
/// not looked at.
fn has_match(folder: &Path, pattern: &str) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .any(|name| fits(&name, pattern))
    })
}

fn fits(name: &str, pattern: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len()).filter_map(|at| rest.get(at..)).any(|rest| fits(rest, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository in a folder of its own that goes away with the value.
    struct Sample(PathBuf);

    impl Sample {
        fn new(name: &str, document: &str) -> Self {
            let root = std::env::temp_dir().join(format!("xtask-docs-{name}-{}", std::process::id()));
            for file in ["src/main.rs", "src/deep/part.rs", ".ci/run", "dist/old.md", "meshes/a.yaml"] {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "`not/checked`").unwrap();
            }
            fs::write(root.join("README.md"), document).unwrap();
            Self(root)
        }

        fn problems(&self) -> Vec<String> {
            let subcommands = ["demo".to_owned(), "lab".to_owned()];
            check(&self.0, &subcommands).unwrap().iter().map(ToString::to_string).collect()
        }
    }

    impl Drop for Sample {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn existing_paths_and_subcommands_pass() {
        let sample = Sample::new(
            "good",
            "`src/`, `src/main.rs`, `src/main.rs:3`, `part.rs`, `.ci/run`, `meshes/*.yaml`,\n\
             [deep](src/deep#anchor), [site](https://example.org/x.md), [top](#top),\n\
             `dist/meshweft`, `cargo xtask demo --once`, `./src/main.rs`\n\
             ```\ncargo xtask lab up meshes/a.yaml\n```\n",
        );
        assert_eq!(sample.problems(), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_line() {
        let sample = Sample::new(
            "bad",
            "`src/gone.rs`\n[x](gone.md) and `lost.rs`\n`meshes/*.json`, `nowhere/at-all`\n\
             `cargo xtask dance`\n```\ncargo xtask lab up meshes/b.yaml\n```\n`../outside/x.md`\n",
        );
        assert_eq!(
            sample.problems(),
            [
                "README.md:1: the path src/gone.rs does not exist",
                "README.md:2: the link gone.md leads nowhere",
                "README.md:2: the path lost.rs does not exist",
                "README.md:3: the path meshes/*.json does not exist",
                "README.md:3: the path nowhere/at-all does not exist",
                "README.md:4: `cargo xtask dance` is no subcommand",
                "README.md:6: the path meshes/b.yaml does not exist",
                "README.md:8: the path ../outside/x.md does not exist",
            ]
        );
    }

    #[test]
    fn things_with_a_slash_that_are_no_paths_are_left_alone() {
        for text in [
            "/v1/context",
            "application/json",
            "text/plain",
            "networking.istio.io/v1",
            "10.0.0.0/8",
            "127.0.0.1:9464/metrics",
            "http://x/y.md",
            "spiffe://cluster.local/ns/a",
            "I/O",
            "n/a",
            "*/*",
            "/checkout/<n>",
            "target/meshweft/probes.o",
            "dist",
            "FILE",
            "trace_id",
            "1.40.0",
            "*.rs",
        ] {
            assert_eq!(path_like(text), None, "{text}");
        }
    }

    #[test]
    fn patterns_stand_for_any_part_of_a_name() {
        assert!(fits("demo.yaml", "*.yaml"));
        assert!(fits("demo.yaml", "d*o.*"));
        assert!(fits("demo", "*"));
        assert!(!fits("demo.yaml", "*.json"));
        assert!(!fits("demo.yaml", "x*"));
    }
}
