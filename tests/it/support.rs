//! Real programs around the daemon: a camera, a broker, a listener; and the daemon itself.
//!
//! Nothing here sleeps to wait: each wait is for a line of output, with a limit that only a failure
//! reaches.
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mingchu::uplink::{TopicKind, Topics};
use serde_json::Value;
use tempfile::TempDir;

use crate::faulty_disk::FaultyDisk;

/// Longest wait for anything: the machines are shared and slow at times.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Of what a process said, as much is shown when a test fails: the reason is not to scroll away.
const LAST_LINES: usize = 40;

/// A file of the checkout.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A clip made at set-up.
pub fn demo_clip(name: &str) -> PathBuf {
    let path = root(".runtime/demo").join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `.ci/setup test`",
        path.display()
    );
    path
}

/// A real clip of the shared data folder.
pub fn shared_clip(name: &str) -> PathBuf {
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(|_| root("../shared"), PathBuf::from);
    shared.join("data/clips").join(name)
}

/// All of them.
pub fn shared_clips() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(shared_clip("")).unwrap();
    let mut clips: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    clips.retain(|path| path.extension().is_some_and(|e| e == "mp4"));
    clips.sort();
    assert!(clips.len() >= 18, "{clips:?}");
    clips
}

/// A child process whose lines can be waited for. Killed when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

fn send_lines(stream: impl Read + Send + 'static, to: std::sync::mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

impl Process {
    pub fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}; `.ci/setup test` installs what is missing"));
        let (to, lines) = channel();
        send_lines(child.stdout.take().unwrap(), to.clone());
        send_lines(child.stderr.take().unwrap(), to);
        Self {
            name,
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first line, seen already or yet to come, that `wanted` takes; lines before it are not
    /// looked at again.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(e) => {
                    let why = if e == RecvTimeoutError::Timeout {
                        "no"
                    } else {
                        "ended without"
                    };
                    panic!(
                        "{}: {why} {what}; it said:\n{}",
                        self.name,
                        self.seen.join("\n")
                    );
                }
            };
            self.seen.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    pub fn wait_for_text(&mut self, text: &str) -> String {
        self.wait_for(text, |line| line.contains(text))
    }

    /// What it has said so far.
    pub fn said(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a power cut.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the end in good order.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    pub fn signal(&self, signal: &str) {
        // The shell's own kill: a small system has no program of that name.
        let command = format!("kill {signal} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &command]).status();
        assert!(sent.unwrap().success());
    }

    /// Its end, and all it said.
    pub fn wait(&mut self) -> ExitStatus {
        // Its output ends when it does.
        let deadline = Instant::now() + LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "{} does not end; it said:\n{}",
                        self.name,
                        self.seen.join("\n")
                    )
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            self.said();
            let last = self.seen.len().saturating_sub(LAST_LINES);
            let said = self.seen[last..].join("\n");
            eprintln!("--- {} said, last of all:\n{said}", self.name);
        }
    }
}

/// A port nobody listens on. Another program may take it before it is used: who listens tries again.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// GStreamer's RTSP server, playing clips in a loop.
pub struct Camera {
    pub process: Process,
    pub port: u16,
    args: Vec<String>,
}

impl Camera {
    /// `args`: options, then `NAME=CLIP` for each stream.
    pub fn start(args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let (process, port) = Self::serve(0, &args);
        Self {
            process,
            port,
            args,
        }
    }

    fn serve(port: u16, args: &[String]) -> (Process, u16) {
        // Debian's Python: PyGObject is built for that one.
        let mut command = Command::new("/usr/bin/python3");
        let options = args.iter().filter(|a| !a.contains("=/"));
        let mounts = args.iter().filter(|a| a.contains("=/"));
        command
            .arg(root("tests/rtsp_camera.py"))
            .args(options)
            .arg(port.to_string())
            .args(mounts);
        let mut process = Process::start("camera", &mut command);
        let ready = process.wait_for_text("ready ");
        (process, ready["ready ".len()..].trim().parse().unwrap())
    }

    /// The same streams again on the same port.
    pub fn restart(&mut self) {
        self.process.kill();
        (self.process, self.port) = Self::serve(self.port, &self.args);
    }

    pub fn url(&self, name: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{name}", self.port)
    }
}

/// mosquitto, on a free port.
pub struct Mosquitto {
    pub process: Process,
    pub port: u16,
    has_memory: bool,
    dir: TempDir,
    login: Option<(String, String)>,
}

impl Mosquitto {
    /// With no memory of its own: what it has not delivered is gone when it is killed.
    pub fn start() -> Self {
        Self::begin(false, None)
    }

    /// With a memory on the disk, as old as its last save: some of it is over when it is killed.
    pub fn with_memory() -> Self {
        Self::begin(true, None)
    }

    /// Lets in who knows the name and the password, and nobody else.
    pub fn with_login(name: &str, password: &str) -> Self {
        Self::begin(false, Some((name.to_owned(), password.to_owned())))
    }

    fn begin(has_memory: bool, login: Option<(String, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((name, password)) = &login {
            let file = dir.path().join("passwords");
            std::fs::write(&file, format!("{name}:{password}\n")).unwrap();
            // Turns the passwords into hashes.
            let mut hash = Command::new("mosquitto_passwd");
            assert!(hash.arg("-U").arg(&file).status().unwrap().success());
        }
        // Another program may take the port first: then mosquitto ends and another one is tried.
        for _ in 0..10 {
            let port = free_port();
            if let Some(process) = Self::serve(&dir, port, has_memory) {
                return Self {
                    process,
                    port,
                    has_memory,
                    dir,
                    login,
                };
            }
        }
        panic!("mosquitto found no free port");
    }

    fn serve(dir: &TempDir, port: u16, has_memory: bool) -> Option<Process> {
        let config = dir.path().join("mosquitto.conf");
        let passwords = dir.path().join("passwords");
        let who = if passwords.exists() {
            format!("password_file {}", passwords.display())
        } else {
            "allow_anonymous true".to_owned()
        };
        let memory = if has_memory {
            // It saves after so many changes.
            let dir = dir.path().display();
            format!(
                "persistence true\npersistence_location {dir}/\n\
                 autosave_on_changes true\nautosave_interval 20"
            )
        } else {
            "persistence false".to_owned()
        };
        // As root it would use its files as another user, who may not see this folder.
        let text = format!("listener {port} 127.0.0.1\n{who}\n{memory}\nuser root\n");
        std::fs::write(&config, text).unwrap();
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|p| Path::new(p).exists())
            .unwrap_or("mosquitto");
        let mut process = Process::start(
            "mosquitto",
            Command::new(program).arg("-v").arg("-c").arg(config),
        );
        let mut running = false;
        process.wait_for("start", |line| {
            running = line.contains(" running");
            running || line.contains("Error")
        });
        running.then_some(process)
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Again on the same port.
    pub fn restart(&mut self) {
        let again = Self::serve(&self.dir, self.port, self.has_memory);
        self.process = again.expect("the port is still ours");
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Listens to everything, with this broker's login.
    pub fn listener(&self) -> Listener {
        let login = self.login.iter();
        let args = login.flat_map(|(name, password)| ["-u", name, "-P", password]);
        Listener::with(self.port, &args.collect::<Vec<_>>())
    }
}

/// One message as the listener got it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub topic: String,
    pub retained: bool,
    /// Null if empty, or no JSON.
    pub payload: Value,
    pub bytes: Vec<u8>,
    /// MQTT 5 user properties: `key:value`, separated by spaces.
    pub properties: String,
}

impl Heard {
    /// The user properties as an object.
    pub fn headers(&self) -> Value {
        let pairs = self.properties.split(' ').filter(|p| !p.is_empty());
        let named = pairs.map(|p| p.split_once(':').unwrap_or((p, "")));
        named.map(|(k, v)| (k.to_owned(), Value::from(v))).collect()
    }
}

/// `mosquitto_sub` on all our topics: a client that is not ours.
pub struct Listener {
    process: Process,
    pub heard: Vec<Heard>,
}

impl Listener {
    pub fn start(port: u16) -> Self {
        Self::with(port, &[])
    }

    fn with(port: u16, args: &[&str]) -> Self {
        // Line by line, although its output is a pipe.
        let mut command = Command::new("stdbuf");
        command.args([
            "-oL",
            "mosquitto_sub",
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-t",
            "mingchu/#",
            "-d",
        ]);
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-F",
            // In hex: pictures are no lines of text.
            "MSG %r %t %x %P",
        ]);
        command.args(args);
        let mut process = Process::start("mosquitto_sub", &mut command);
        process.wait_for_text("Subscribed (mid");
        Self {
            process,
            heard: Vec::new(),
        }
    }

    /// The next message that `wanted` takes, from here on.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let heard = &mut self.heard;
        self.process.wait_for(what, |line| {
            let Some(message) = parse(line) else {
                return false;
            };
            keeps_the_contract(&message);
            heard.push(message);
            heard.last().is_some_and(&wanted)
        });
        self.heard.last().unwrap().clone()
    }

    /// The same, unless one has been heard already.
    pub fn eventually(&mut self, what: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        match self.heard.iter().find(|m| wanted(m)) {
            Some(heard) => heard.clone(),
            None => self.wait_for(what, wanted),
        }
    }

    pub fn finding(&mut self, phase: &str) -> Value {
        let what = format!("{phase} finding");
        self.wait_for(&what, |m| {
            m.topic.contains("/finding/") && m.payload["data"]["phase"] == phase
        })
        .payload
    }

    pub fn status(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, |m| {
            m.topic.ends_with("/status") && !m.topic.contains("/camera/") && wanted(&m.payload)
        })
        .payload
    }

    pub fn camera(&mut self, camera: &str, state: &str) -> Value {
        let topic = format!("/camera/{camera}/status");
        let what = format!("{camera} {state}");
        self.wait_for(&what, |m| {
            m.topic.ends_with(&topic) && m.payload["state"] == state
        })
        .payload
    }

    /// All findings heard so far.
    pub fn findings(&self) -> impl Iterator<Item = &Value> {
        self.heard
            .iter()
            .filter(|m| m.topic.contains("/finding/"))
            .map(|m| &m.payload)
    }
}

fn parse(line: &str) -> Option<Heard> {
    let mut parts = line.strip_prefix("MSG ")?.splitn(4, ' ');
    let (retained, topic) = (parts.next()? == "1", parts.next()?.to_owned());
    let bytes = from_hex(parts.next().unwrap_or_default());
    let payload = if bytes.is_empty() || topic.contains("/evidence/") {
        Value::Null
    } else {
        // A test may publish what is no JSON; what the site sends must fit a schema.
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        serde_json::from_slice(&bytes).unwrap_or_else(|_| text())
    };
    let properties = parts.next().unwrap_or_default().to_owned();
    Some(Heard {
        topic,
        retained,
        payload,
        bytes,
        properties,
    })
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).unwrap() as u8;
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|p| digit(p[0]) << 4 | digit(p[1])).collect()
}

/// Every message that the site sends fits the schema of its topic, and has no key beside it.
fn keeps_the_contract(message: &Heard) {
    static SCHEMAS: OnceLock<BTreeMap<String, jsonschema::Validator>> = OnceLock::new();
    let schemas = SCHEMAS.get_or_init(|| {
        let all = mingchu::app::schema::all().into_iter();
        let strict = |(name, mut schema): (String, Value)| {
            close(&mut schema);
            (name, jsonschema::validator_for(&schema).unwrap())
        };
        all.map(strict).collect()
    });
    let Some((_, _, kind)) = Topics::parse(&message.topic) else {
        panic!("{} is no topic of the contract", message.topic);
    };
    let from_centre = matches!(
        kind,
        TopicKind::Receipt | TopicKind::Command(_) | TopicKind::ConfigDesired
    );
    let is_evidence = matches!(kind, TopicKind::Evidence(..));
    // Empty: what was retained is over.
    if from_centre || (message.payload.is_null() && !is_evidence) {
        return;
    }
    let name = mingchu::app::schema::of_topic(&kind);
    let name = name.unwrap_or_else(|| panic!("{} has no schema", message.topic));
    let headers = message.headers();
    let (topic, payload) = (&message.topic, &message.payload);
    // A file has its word beside it.
    let payload = if is_evidence { &headers } else { payload };
    let errors: Vec<String> = schemas[&name]
        .iter_errors(payload)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    if is_evidence {
        let digest = mingchu::base::digest::sha256_hex(&message.bytes);
        assert_eq!(headers["sha256"], digest, "{topic}");
    }
    assert!(errors.is_empty(), "{topic}: {errors:#?}\n{payload:#}");
}

/// Lets no object have keys that its schema does not name. Receivers must; a test of ours must not.
fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key("properties") && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".to_owned(), Value::from(false));
        }
        object.values_mut().for_each(close);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(close);
    }
}

/// A site's folder with its config.
pub struct SiteDir {
    dir: TempDir,
}

/// A rule that answers at once, on the shipped model.
pub const QUICK_RULE: &str = "[[rule]]\nid = \"mask\"\ncode = \"ppe.mask.missing\"\n\
    labels = [\"face-bare\"]\nsamples = 3\ndwell_ms = 500\nclear_ms = 2000\nupdate_ms = 1000\n";

impl SiteDir {
    /// `tables`: the cameras and rules.
    pub fn new(broker: &str, tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Self { dir };
        site.write_config(&format!(
            "[site]\nregion = \"410724\"\nid = \"site-000123\"\nuscc = \"91410724MA00000000\"\n\
             state_dir = \"state\"\n\
             [status]\nlisten = \"127.0.0.1:0\"\n\
             [uplink]\nbroker = \"{broker}\"\nprogress_timeout_s = 5\ntelemetry_s = 2\n\
             [detect]\nmodels = [\"{}\"]\nworkers = 1\n\
             onnxruntime = \"{}\"\n{tables}",
            root("models/kitchen.toml").display(),
            root(".runtime/onnxruntime/libonnxruntime.so").display(),
        ));
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("site.toml")
    }

    pub fn write_config(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn read_config(&self) -> String {
        std::fs::read_to_string(self.config()).unwrap()
    }

    /// Starts the daemon; does not wait for anything.
    pub fn daemon(&self) -> Process {
        Process::start("mingchu", &mut self.command())
    }

    /// The same, on a disk that can be made to fail.
    pub fn daemon_on(&self, disk: &FaultyDisk) -> Process {
        Process::start("mingchu", disk.under(&mut self.command()))
    }

    fn command(&self) -> Command {
        let mut command = mingchu();
        command.arg("run").arg("--config").arg(self.config());
        command
    }
}

/// The program under test, with nothing of our own environment that would change it.
pub fn mingchu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mingchu"));
    command
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("STATE_DIRECTORY")
        .env_remove("CREDENTIALS_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .env("MINGCHU_LOG", "warn,mingchu=info,rumqttd=off")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// A camera's table.
pub fn camera_table(id: &str, url: &str, more: &str) -> String {
    format!("[[camera]]\nid = \"{id}\"\nurl = \"{url}\"\n{more}\n")
}

/// Runs the program to its end: exit code, standard output, standard error.
pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = mingchu().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A listener on a port, for peers that never answer.
pub fn mute_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Where the page listens, as the log says.
pub fn page_of(daemon: &mut Process) -> String {
    let line = daemon.wait_for_text("status page");
    let (_, rest) = line.split_once("address=").expect("the line names it");
    rest.split_whitespace().next().unwrap().to_owned()
}

/// What `/metrics` said at a moment.
pub struct Page(String);

impl Page {
    pub fn read(address: &str) -> Self {
        Self(get(address, "/metrics", "").1)
    }

    /// One sample; 0 if there is none yet.
    pub fn value(&self, key: &str) -> u64 {
        let value = |l: &str| l.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(value).unwrap_or(0)
    }

    /// All samples whose key begins so.
    pub fn sum(&self, begin: &str) -> u64 {
        let lines = self.0.lines().filter(|l| l.starts_with(begin));
        lines
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum()
    }
}

/// Status line and body of a GET.
pub fn get(address: &str, path: &str, more: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: box\r\n{more}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}
