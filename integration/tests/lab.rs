//! The lab itself, for real: root, network namespaces, Envoy. The meshes here are without the filter;
//! what it adds is tested elsewhere.

use meshweft_integration::lab::mesh::Mesh;
use meshweft_integration::lab::tools::{Filter, Tools};
use meshweft_integration::lab::{Lab, Options, fetch};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A server that answers with what it got, and with who it thinks its peer is.
const ECHO: &str = r#"
import http.server, os
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        body = f"{os.environ['POD_NAME']} {self.client_address[0]} {self.path}\n{self.headers}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Echo).serve_forever()
"#;

fn echo_pod(name: &str, more: &str) -> String {
    let command = serde_json::to_string(&["python3", "-c", ECHO]).unwrap();
    format!("  - {{name: {name}, command: {command}, port: 8080{more}}}\n")
}

fn options() -> Options {
    Options::new(Tools::from_environment(Filter::Without).unwrap())
}

fn start(text: &str) -> Lab {
    Lab::start(&Mesh::parse(text, Path::new("/")).unwrap(), options()).unwrap()
}

fn mesh_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("meshes").join(name)
}

fn get(address: SocketAddr, path: &str) -> fetch::Answer {
    fetch::get(TcpStream::connect(address).unwrap(), "anything", path, &[]).unwrap()
}

/// Sum of the statistics whose names start and end so.
fn statistic(lab: &Lab, pod: &str, prefix: &str, suffix: &str) -> u64 {
    let page = lab.envoy_admin(pod, "/stats").unwrap();
    let values = page.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        (name.starts_with(prefix) && name.ends_with(suffix)).then(|| value.parse::<u64>().unwrap())
    });
    values.sum()
}

/// The series of a family on a pod's Prometheus page: labels in their order, and the value.
fn series(lab: &Lab, pod: &str, family: &str) -> Vec<(Vec<(String, String)>, f64)> {
    let page = lab.prometheus(pod).unwrap();
    let lines =
        page.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix('{')?.split_once("} "));
    let parsed = lines.map(|(labels, value)| {
        // No value of the lab has a comma but response_flags, which has none here.
        let pairs = labels.split(',').map(|pair| pair.split_once('=').unwrap());
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        (pairs.collect(), value.parse().unwrap())
    });
    parsed.collect()
}

fn host_has(prefix: &str) -> bool {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let link = prefix.trim_end_matches('-');
    names("/run/netns").iter().chain(&names("/etc/netns")).any(|name| name.starts_with(prefix))
        || names("/sys/class/net").iter().any(|name| name == link)
}

#[test]
fn the_demo_mesh_serves_under_load_with_mutual_tls_and_istios_metrics() {
    let mut lab = Lab::start(&Mesh::load(&mesh_file("demo.yaml")).unwrap(), options()).unwrap();
    let gateway = lab.gateway_address();
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 200 {
                        return;
                    }
                    let answer = get(gateway, &format!("/checkout/{number}"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(
                        answer
                            .text()
                            .contains(&format!("\"checkout\": {number}, \"order\": {{\"order\": {number},"))
                    );
                }
            });
        }
    });
    lab.check().unwrap();

    for (client, server) in [("gateway", "storefront"), ("storefront", "orders"), ("orders", "stock")] {
        let cluster = format!("cluster.outbound|8080||{server}.shop.svc.cluster.local.");
        assert!(statistic(&lab, client, &cluster, "ssl.handshake") > 0, "{client} spoke plaintext");
        assert_eq!(statistic(&lab, client, &cluster, "upstream_rq_total"), 200, "{client}");
        assert!(statistic(&lab, server, "listener.0.0.0.0_15006.", "ssl.handshake") > 0, "{server}");
        for (pod, reporter, policy) in [(client, "source", "unknown"), (server, "destination", "mutual_tls")]
        {
            let found = series(&lab, pod, "istio_requests_total");
            let found: Vec<_> = found.iter().filter(|(labels, _)| labels[0].1 == reporter).collect();
            let [(labels, value)] = found.as_slice() else { panic!("{pod}: {found:?}") };
            assert_eq!(*value, 200.0, "{pod}");
            let names: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((names.len(), names[0], names[24]), (25, "reporter", "connection_security_policy"));
            let labels: BTreeMap<_, _> =
                labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            for (name, expected) in [
                ("source_workload", client),
                ("source_app", client),
                ("source_cluster", "Kubernetes"),
                ("source_canonical_revision", "latest"),
                ("source_version", "unknown"),
                ("destination_workload", server),
                ("destination_workload_namespace", "shop"),
                ("destination_app", server),
                ("destination_principal", &format!("spiffe://cluster.local/ns/shop/sa/{server}")),
                ("destination_service", &format!("{server}.shop.svc.cluster.local")),
                ("destination_service_name", server),
                ("destination_service_namespace", "shop"),
                ("destination_canonical_service", server),
                ("request_protocol", "http"),
                ("response_code", "200"),
                ("grpc_response_status", ""),
                ("response_flags", "-"),
                ("connection_security_policy", policy),
            ] {
                assert_eq!(labels[name], expected, "{name} on {pod} ({reporter})");
            }
        }
    }

    // Histograms appear when Envoy merges them, within a flush interval.
    let deadline = Instant::now() + Duration::from_secs(10);
    for family in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
        loop {
            let counts: f64 =
                series(&lab, "orders", &format!("{family}_count")).iter().map(|(_, value)| value).sum();
            if counts == 400.0 {
                break;
            }
            assert!(Instant::now() < deadline, "{family}: {counts}");
            thread::sleep(Duration::from_millis(50));
        }
        let buckets = series(&lab, "orders", &format!("{family}_bucket"));
        assert_eq!(buckets.len(), 2 * 20, "{family}");
        assert_eq!(buckets[0].0[25], ("le".to_owned(), "0.5".to_owned()));
    }
    let prefix = format!("mw{}-", lab.id());
    let folder = lab.folder().to_owned();
    lab.down().unwrap();
    assert!(!host_has(&prefix));
    assert!(!folder.exists());
}

#[test]
fn inbound_is_permissive_and_outbound_passes_what_it_does_not_know() {
    let lab = start(&format!("pods:\n{}{}", echo_pod("a", ""), echo_pod("b", "")));
    // Plaintext from outside the mesh. Istio's inbound source is 127.0.0.6.
    let b = SocketAddr::new(lab.pod("b").unwrap().address.into(), 8080);
    assert!(get(b, "/plain").text().starts_with("b-0 127.0.0.6 /plain\n"));
    let inbound = series(&lab, "b", "istio_requests_total");
    assert!(
        inbound[0].0.contains(&("connection_security_policy".to_owned(), "none".to_owned())),
        "{inbound:?}"
    );

    // An address outside the mesh, HTTP and not.
    let outside = TcpListener::bind((lab.host_address(), 0)).unwrap();
    let address = outside.local_addr().unwrap();
    let server = thread::spawn(move || {
        for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "pong"] {
            let (mut stream, _) = outside.accept().unwrap();
            let mut bytes = [0; 1024];
            assert!(stream.read(&mut bytes).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let answer = fetch::get(lab.connect("a", address).unwrap(), "unknown.example", "/", &[]).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let mut raw = lab.connect("a", address).unwrap();
    raw.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    raw.write_all(b"\x00ping").unwrap();
    let mut bytes = [0; 4];
    raw.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
    server.join().unwrap();
    let outbound = series(&lab, "a", "istio_requests_total");
    assert!(
        outbound[0].0.contains(&("destination_service_name".to_owned(), "PassthroughCluster".to_owned()))
    );
    assert!(outbound[0].0.contains(&("destination_service".to_owned(), "unknown.example".to_owned())));
}

#[test]
fn services_are_found_by_every_name_and_bare_tcp_reaches_them_with_mutual_tls() {
    let text = format!(
        "pods:\n{}{}{}",
        echo_pod("a", ""),
        echo_pod("b", ", namespace: other, replicas: 2"),
        "  - {name: tcp, command: [python3, -c, \"import socketserver\\nclass H(socketserver.StreamRequestHandler):\\n  def handle(self): self.wfile.write(self.rfile.readline()[::-1])\\nsocketserver.ThreadingTCPServer(('0.0.0.0', 7), H).serve_forever()\"], port: 7}\n"
    );
    let lab = start(&text);
    let fetch_by_name = |url: &str| {
        let script = format!(
            "import urllib.request; print(urllib.request.urlopen('{url}', timeout=10).read().decode())"
        );
        let output = lab.exec("a", &["python3", "-c", &script]).unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for host in
        ["b.other:8080", "b.other.svc:8080", "b.other.svc.cluster.local:8080", "b.other", "a", "a:8080"]
    {
        // A name without a port is port 80 for the client; the mesh knows the service's only port.
        let text = fetch_by_name(&format!("http://{host}/x"));
        assert!(text.contains(" 127.0.0.6 /x"), "{host}: {text}");
    }
    let script = "import urllib.request\nfor _ in range(40): print(urllib.request.urlopen('http://b.other:8080/', timeout=10).read().decode())";
    let pods = String::from_utf8(lab.exec("a", &["python3", "-c", script]).unwrap().stdout).unwrap();
    assert!(pods.contains("b-0 127.0.0.6 /") && pods.contains("b-1 127.0.0.6 /"), "{pods}");

    let script = "import socket; s = socket.create_connection(('tcp', 7), 10); s.sendall(b'\\0abc\\n'); print(s.recv(9))";
    let output = lab.exec("a", &["python3", "-c", script]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b'\\ncba\\x00'\n", "{output:?}");
    let cluster = "cluster.outbound_tcp|7||tcp.default.svc.cluster.local.";
    assert_eq!(statistic(&lab, "a", cluster, "ssl.handshake"), 1);
}

#[test]
fn programs_that_are_none_of_ours_are_put_into_a_mesh_by_a_file() {
    let lab = Lab::start(&Mesh::load(&mesh_file("apache.yaml")).unwrap(), options()).unwrap();
    let answer = get(lab.gateway_address(), "/apache.conf");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("mpm_prefork"));
    let cluster = "cluster.outbound|8080||files.default.svc.cluster.local.";
    assert_eq!(statistic(&lab, "proxy", cluster, "upstream_rq_total"), 1);
}

#[test]
fn heads_of_sixty_kilobytes_pass() {
    let lab = start(&format!("pods:\n{}", echo_pod("a", "")));
    let value = "v".repeat(1000);
    let headers: Vec<_> = (0..60).map(|number| format!("x-filler-{number}: {value}")).collect();
    let headers: Vec<_> = headers.iter().map(String::as_str).collect();
    let stream = TcpStream::connect(lab.gateway_address()).unwrap();
    let answer = fetch::get(stream, "a", "/big", &headers).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("x-filler-59: vvv"));
}

#[test]
fn a_pod_without_a_sidecar_is_reached_in_plaintext_and_reaches_others() {
    let lab = start(&format!("pods:\n{}{}", echo_pod("a", ""), echo_pod("bare", ", sidecar: false")));
    let script =
        "import urllib.request; print(urllib.request.urlopen('http://%s:8080/', timeout=10).read().decode())";
    let ask = |from: &str, to: &str| {
        let output = lab.exec(from, &["python3", "-c", &script.replace("%s", to)]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let address = lab.pod("a").unwrap().address.to_string();
    assert!(
        ask("a", "bare").starts_with(&format!("bare-0 {address} ")),
        "the sidecar's own address is the peer"
    );
    assert!(ask("bare", "a").starts_with("a-0 127.0.0.6 "));
    assert_eq!(lab.envoy_pid("bare"), None);
}

#[test]
fn processes_can_be_killed_and_started_again() {
    let mut lab = start(&format!("pods:\n{}", echo_pod("a", "")));
    let gateway = lab.gateway_address();
    let (app, envoy) = (lab.app_pid("a").unwrap(), lab.envoy_pid("a").unwrap());
    lab.kill_app("a").unwrap();
    assert_eq!(get(gateway, "/").status, 503);
    lab.restart_app("a").unwrap();
    assert_eq!(get(gateway, "/").status, 200);
    lab.restart_envoy("a").unwrap();
    assert_eq!(get(gateway, "/").status, 200);
    assert_ne!((app, envoy), (lab.app_pid("a").unwrap(), lab.envoy_pid("a").unwrap()));
}

#[test]
fn labs_live_side_by_side_and_go_when_they_are_dropped() {
    let text = format!("pods:\n{}", echo_pod("a", ""));
    let (first, second) = (start(&text), start(&text));
    assert_ne!(first.gateway_url(), second.gateway_url());
    let prefix = format!("mw{}-", first.id());
    drop(first);
    assert!(!host_has(&prefix));
    assert_eq!(get(second.gateway_address(), "/").status, 200);
}

#[test]
fn a_program_that_ends_or_does_not_listen_is_an_error_with_its_last_words() {
    let fail = |command: &str| {
        let text = format!("pods:\n  - {{name: a, command: [sh, -c, \"{command}\"], port: 8080}}\n");
        let mesh = Mesh::parse(&text, Path::new("/")).unwrap();
        let options = Options { ready_timeout: Duration::from_secs(2), ..options() };
        format!("{:#}", Lab::start(&mesh, options).expect_err("must fail"))
    };
    let ended = fail("echo no luck >&2; exit 3");
    assert!(
        ended.contains("the program of pod a-0 ended (exit status: 3)") && ended.contains("no luck"),
        "{ended}"
    );
    let silent = fail("echo still thinking; sleep 60");
    assert!(
        silent.contains("does not listen on port 8080 in time") && silent.contains("still thinking"),
        "{silent}"
    );
}

fn lab_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshweft-lab"));
    command.args(arguments);
    command
}

fn lab(arguments: &[&str]) -> Output {
    lab_command(arguments).output().unwrap()
}

/// A mesh file that is removed with this value.
struct MeshFile(PathBuf);

impl MeshFile {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("meshweft-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, format!("pods:\n{}", echo_pod("a", ""))).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for MeshFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ends a lab when a test fails half-way.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = lab(&["down", "--id", self.0]);
    }
}

#[test]
fn the_commands_start_a_mesh_run_something_in_it_and_end_it() {
    let file = MeshFile::new("commands");
    let up = ["up", file.path(), "--id", "60", "--no-filter", "--no-agent"];
    let _down = Down("60");
    let output = lab(&up);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["a-0.default", "10.126.0.10", "mw60-a-0.default", "gateway: http://10.126.0.2:8080"] {
        assert!(printed.contains(part), "{part:?} is not in:\n{printed}");
    }
    assert_eq!(get("10.126.0.2:8080".parse().unwrap(), "/").status, 200);

    let exec = |pod: &str, command: &[&str]| lab(&[&["exec", "--id", "60", pod], command].concat());
    assert_eq!(exec("a", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(exec("a-0.default", &["printenv", "POD_IP"]).stdout, b"10.126.0.10\n");
    let unknown = exec("b", &["true"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no pod \"b\"; there are a-0.default"));
    let again = lab(&up);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("end it with `down`"));

    // Everything died, as after a reboot, but the traces of it are there: the next start cleans up.
    let pids = || -> Vec<String> {
        let of = |netns: &str| Command::new("ip").args(["netns", "pids", netns]).output().unwrap().stdout;
        let all = [of("mw60-a-0.default"), of("mw60-gateway-0.istio-system")].concat();
        String::from_utf8(all).unwrap().lines().map(str::to_owned).collect()
    };
    assert!(Command::new("kill").arg("-9").args(pids()).status().unwrap().success());
    while !pids().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let restarted = lab(&up);
    assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));

    for _ in 0..2 {
        let down = lab(&["down", "--id", "60"]);
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        assert!(!host_has("mw60-"));
        assert!(!Path::new("/run/meshweft/lab-60").exists());
    }
    assert!(!exec("a", &["true"]).status.success());
}

/// Starts `up --detach false` and returns when it has printed its addresses.
fn up_attached(file: &MeshFile, id: &str) -> Child {
    let arguments = ["up", file.path(), "--id", id, "--no-filter", "--no-agent", "--detach", "false"];
    let mut child = lab_command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    while !output.contains("Ctrl-C") {
        assert!(std::io::BufRead::read_line(&mut stdout, &mut output).unwrap() > 0, "{output}");
    }
    child
}

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    let file = MeshFile::new("killed");
    let _down = Down("61");
    let mut owner = up_attached(&file, "61");
    assert!(host_has("mw61-"));
    let in_use = lab(&["down", "--id", "61"]);
    assert!(String::from_utf8_lossy(&in_use.stderr).contains("belongs to a process that is running"));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while host_has("mw61-") || Path::new("/run/meshweft/lab-61").exists() {
        assert!(Instant::now() < deadline, "the watchdog did not clean up");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_ends_an_attached_mesh_in_good_order() {
    let file = MeshFile::new("signal");
    let _down = Down("62");
    let mut owner = up_attached(&file, "62");
    assert!(Command::new("kill").arg(owner.id().to_string()).status().unwrap().success());
    assert!(owner.wait().unwrap().success());
    assert!(!host_has("mw62-"));
}
