//! What a process is called: what it runs, never `python3` or `java`.

use std::path::Path;

/// Names that say nothing about an app; the folder above then does.
const VAGUE: [&str; 9] = ["app", "main", "__main__", "index", "server", "manage", "run", "start", "wsgi"];

/// Options of interpreters that take the next argument as their value.
const WITH_VALUE: [&str; 12] = [
    "-cp",
    "-classpath",
    "--class-path",
    "-p",
    "--module-path",
    "--add-opens",
    "--add-modules",
    "-W",
    "-X",
    "-I",
    "-r",
    "--require",
];

/// Name of a process by its executable, its arguments (with the program itself first) and its
/// working folder.
pub(super) fn of(executable: &str, arguments: &[&str], directory: Option<&Path>) -> String {
    let interpreter = executable.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let known = [
        "python", "pypy", "java", "node", "nodejs", "ruby", "perl", "php", "php-fpm", "bun", "deno", "dotnet",
    ];
    let name = known
        .contains(&interpreter)
        .then(|| interpreted(arguments.get(1..).unwrap_or_default(), directory))
        .flatten();
    name.unwrap_or_else(|| executable.to_owned())
}

fn interpreted(arguments: &[&str], directory: Option<&Path>) -> Option<String> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            // python -m module, java -m module/class
            "-m" | "--module" => {
                let module = arguments.next()?;
                return Some(module.split('/').next()?.to_owned());
            }
            "-jar" => return stem(arguments.next()?, directory),
            // Code on the command line has no name.
            "-c" | "-e" | "--eval" | "-" => return None,
            option if WITH_VALUE.contains(&option) => {
                arguments.next();
            }
            option if option.starts_with('-') || option.is_empty() => {}
            script => return stem(script, directory),
        }
    }
    None
}

/// The file's name without its ending; where that is vague, the name of its folder. A Java class
/// is called by its last part.
fn stem(script: &str, directory: Option<&Path>) -> Option<String> {
    let path = Path::new(script);
    let file = path.file_name()?.to_str()?;
    let name = match file.rsplit_once('.') {
        Some((
            stem,
            "py" | "pyc" | "pyz" | "js" | "mjs" | "cjs" | "ts" | "rb" | "pl" | "php" | "jar" | "java" | "dll",
        )) => stem,
        Some((_, class)) if !script.contains('/') => class,
        _ => file,
    };
    if !VAGUE.contains(&name.to_ascii_lowercase().as_str()) {
        return Some(name.to_owned());
    }
    let folder = path.parent().filter(|parent| *parent != Path::new("")).or(directory);
    let folder = folder.and_then(Path::file_name).and_then(|folder| folder.to_str());
    Some(folder.unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_named_by_what_they_run() {
        let cases: [(&str, &[&str], &str); 12] = [
            ("python3.11", &["python3", "samples/storefront/app.py"], "storefront"),
            ("python3.11", &["python3", "-u", "-W", "ignore", "billing.py"], "billing"),
            ("python3.11", &["python3", "-m", "http.server", "8080"], "http.server"),
            ("java", &["java", "-Xmx64m", "-Dx=y", "-jar", "/opt/orders-1.2.jar"], "orders-1.2"),
            ("java", &["java", "-cp", "a.jar:b.jar", "com.example.Orders"], "Orders"),
            ("java", &["java", "samples/orders/Orders.java"], "Orders"),
            ("node", &["node", "--enable-source-maps", "/srv/cart/index.js"], "cart"),
            ("ruby3.1", &["ruby", "stock.rb"], "stock"),
            ("nginx", &["nginx: worker process"], "nginx"),
            ("python3.11", &["python3"], "python3.11"),
            ("python3.11", &["python3", "-c", "print(1)"], "python3.11"),
            ("apache2", &["/usr/sbin/apache2", "-X"], "apache2"),
        ];
        for (executable, arguments, expected) in cases {
            assert_eq!(of(executable, arguments, None), expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_vague_script_in_the_working_folder_is_named_by_that_folder() {
        assert_eq!(of("python3", &["python3", "app.py"], Some(Path::new("/srv/checkout"))), "checkout");
    }
}
