//! A real broker for tests, on a free port, in a directory of its own.
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Another process may snatch the port before the broker has it: it is tried so many times.
const ATTEMPTS: usize = 10;
/// Between two looks at whether the broker listens.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A running broker. Dropping it kills it.
pub struct Mosquitto {
    dir: TempDir,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// A broker that takes everybody.
    pub fn start() -> Self {
        Self::with(|_| "allow_anonymous true\n".to_owned())
    }

    /// A broker configured by `lines`, which is given the directory for its files.
    pub fn with(lines: impl FnOnce(&Path) -> String) -> Self {
        let dir = TempDir::new().unwrap();
        let lines = lines(dir.path());
        let mut broker = Self {
            dir,
            port: 0,
            child: None,
        };
        for _ in 0..ATTEMPTS {
            broker.port = free_port();
            let port = broker.port;
            // The broker would otherwise change to a user that may not read the directory.
            let config = format!("user root\nlistener {port} 127.0.0.1\n{lines}");
            std::fs::write(broker.config(), config).unwrap();
            if broker.try_start() {
                return broker;
            }
        }
        panic!("mosquitto does not start: {}", broker.log());
    }

    /// Starts it again on the same port, after [`Mosquitto::kill`].
    pub fn restart(&mut self) {
        for _ in 0..ATTEMPTS {
            if self.try_start() {
                return;
            }
            // Some connection has the port for its own end at the moment.
            std::thread::sleep(LOOK_AGAIN);
        }
        panic!("mosquitto does not start again: {}", self.log());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Keeps it from doing anything, with all its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the broker runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("mosquitto.conf")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether it listens; false if it ended instead.
    fn try_start(&mut self) -> bool {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut child = command("mosquitto", "mosquitto")
            .arg("-c")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // The word in the log, for another process may have the port and take connections.
        while !self.log().contains(" running")
            || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err()
        {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.child = Some(child);
        true
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A program, also from where Debian puts daemons.
fn command(program: &str, package: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(daemons)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("this test needs {program}: apt-get install {package}"));
    Command::new(found)
}

fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writes a password file for one user into `dir`.
pub fn password_file(dir: &Path, user: &str, password: &str) -> PathBuf {
    let file = dir.join("passwords");
    let mut make = command("mosquitto_passwd", "mosquitto");
    make.arg("-b").arg("-c").arg(&file).args([user, password]);
    done(make);
    file
}

/// Writes a certificate for 127.0.0.1, signed by itself, and its key into `dir`, as `name.pem` and
/// `name.key`.
pub fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    certificate_for(dir, name, "IP:127.0.0.1", 2)
}

/// The same for another host, or over since `-days`.
pub fn certificate_for(dir: &Path, name: &str, host: &str, days: i32) -> (PathBuf, PathBuf) {
    let path = |ending: &str| dir.join(format!("{name}.{ending}"));
    let (file, key, request, extensions) = (path("pem"), path("key"), path("csr"), path("ext"));
    let mut ask = command("openssl", "openssl");
    ask.args(["req", "-new", "-newkey", "ec", "-nodes"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", &format!("/CN={name}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&request);
    done(ask);
    let text = format!("subjectAltName={host}\nbasicConstraints=critical,CA:FALSE\n");
    std::fs::write(&extensions, text).unwrap();
    let mut sign = command("openssl", "openssl");
    sign.args(["x509", "-req", "-days", &days.to_string()])
        .arg("-in")
        .arg(&request)
        .arg("-signkey")
        .arg(&key)
        .arg("-extfile")
        .arg(&extensions)
        .arg("-out")
        .arg(&file);
    done(sign);
    (file, key)
}
