//! The relay as people run it: the binary, spawned, with its log kept for the message of a test that fails.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};

/// How long anything expected may take. Generous: it is only waited for in full by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What tokens are signed with.
pub const JWT_SECRET: &str = "a-secret-for-the-tests-with-at-least-32-characters";

const METRICS_TOKEN: &str = "metrics-for-the-tests";

/// What a program has said so far, on both outputs.
pub type Log = watch::Receiver<String>;

/// A spawned `walcast`. Dropping it kills it; a panic in it fails the test.
pub struct Program {
    child: Child,
    pub log: Log,
}

impl Program {
    pub fn spawn(arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
        command.args(arguments).env("NO_COLOR", "1").env_remove("DATABASE_URL").env_remove("DB_HOST");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the walcast binary runs");
        let (sender, log) = watch::channel(String::new());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        tokio::spawn(copy_lines(stdout, sender.clone()));
        tokio::spawn(copy_lines(stderr, sender));
        Program { child, log }
    }

    /// Waits until one line of the log has all of `words` (case does not matter), and gives that line.
    pub async fn says(&mut self, words: &[&str]) -> String {
        let find = |log: &str| {
            log.lines().find(|line| words.iter().all(|word| contains_ignoring_case(line, word))).map(str::to_owned)
        };
        let mut log = self.log.clone();
        let found = tokio::time::timeout(PATIENCE, log.wait_for(|log| find(log).is_some())).await;
        match found {
            Ok(Ok(text)) => find(&text).expect("it was just there"),
            // The outputs are closed: it has ended without saying so.
            Ok(Err(_)) | Err(_) => panic!("walcast did not say {words:?}; its log:\n{}", self.log()),
        }
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("its end can be waited for"),
            Err(_) => panic!("walcast did not end; its log:\n{}", self.log()),
        }
    }

    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Everything that it has said, after its end.
    pub async fn finished(&mut self) -> String {
        // Both outputs are read to their ends, and then nobody writes to the log any more.
        while self.log.changed().await.is_ok() {}
        self.log()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its state can be asked").is_some()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it is running").to_string();
        let status = std::process::Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill {signal} {pid}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let log = self.log.borrow();
        if log.contains("panicked at") && !std::thread::panicking() {
            panic!("walcast panicked; its log:\n{}", *log);
        }
    }
}

async fn copy_lines(output: impl AsyncRead + Unpin, log: watch::Sender<String>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| {
            log.push_str(&line);
            log.push('\n');
        });
    }
}

fn contains_ignoring_case(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(&word.to_lowercase())
}

/// `walcast setup --with-auth`. Roles belong to the whole cluster, so databases of one cluster are set up one at a time.
pub async fn set_up(url: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _guard = ONE_AT_A_TIME.lock().await;
    let mut setup = Program::spawn(&["setup", "--database-url", url, "--with-auth"]);
    let status = setup.exit().await;
    assert!(status.success(), "walcast setup failed:\n{}", setup.log());
}

/// A relay for the database at `url`, ready. The slot is named after the database: slots belong to the whole cluster.
pub async fn start(url: &str, flags: &[&str]) -> Relay {
    let mut relay = Relay::spawn(url, flags).await;
    relay.until_ready().await;
    relay
}

/// `walcast serve`.
pub struct Relay {
    program: Program,
    pub address: SocketAddr,
    pub slot: String,
    arguments: Vec<String>,
}

impl Relay {
    /// Started and listening, but perhaps not ready.
    pub async fn spawn(url: &str, flags: &[&str]) -> Relay {
        let database = url.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default();
        let own = flags.iter().position(|flag| *flag == "--slot").and_then(|at| flags.get(at + 1));
        let slot = own.map_or_else(|| format!("walcast_{database}"), |slot| (*slot).to_owned());
        let mut arguments = serve_arguments(url, &slot);
        let others = flags.iter().filter(|flag| **flag != "--slot" && **flag != slot);
        arguments.extend(others.map(|flag| (*flag).to_owned()));
        let (program, address) = listen(&arguments, "127.0.0.1:0").await;
        Relay { program, address, slot, arguments }
    }

    /// Waits until the slot is being streamed and the pools are up.
    pub async fn until_ready(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = String::from("nothing");
        loop {
            if self.program.has_ended() {
                panic!("the relay ended; its log:\n{}", self.log());
            }
            match self.get("/ready").await {
                Ok((200, _)) => return,
                Ok((status, body)) => last = format!("{status} {body}"),
                Err(error) => last = format!("{error} (before: {last})"),
            }
            if tokio::time::Instant::now() > deadline {
                panic!("the relay is not ready ({last}); its log:\n{}", self.log());
            }
            pause_between_polls().await;
        }
    }

    pub fn log(&self) -> String {
        self.program.log()
    }

    /// The log that goes on growing.
    pub fn log_receiver(&self) -> Log {
        self.program.log.clone()
    }

    /// `kill -TERM`, without waiting for what comes of it.
    pub fn terminate(&self) {
        self.program.signal("-TERM");
    }

    pub async fn exit(&mut self) -> ExitStatus {
        self.program.exit().await
    }

    /// Stands still, with its sockets open, until [`Relay::thaw`].
    pub fn freeze(&self) {
        self.program.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.program.signal("-CONT");
    }

    /// `kill -9`, and it is gone.
    pub async fn kill(&mut self) {
        self.program.signal("-KILL");
        self.program.exit().await;
    }

    /// Another process with the same flags, port and slot.
    pub async fn restart(&mut self) {
        let (program, address) = listen(&self.arguments, &self.address.to_string()).await;
        assert_eq!(address, self.address);
        self.program = program;
        self.until_ready().await;
    }

    pub fn pid(&self) -> u32 {
        self.program.child.id().expect("it is running")
    }

    /// The sum of the samples of the metric whose name contains `name`; of that one alone after `=`.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, body) = self.get("/metrics").await.expect("the relay answers");
        assert_eq!(status, 200, "{body}");
        sample(&body, name).unwrap_or_else(|| panic!("there is no metric {name}:\n{body}"))
    }

    /// Waits until that metric is what it should be.
    pub async fn until_metric(&self, name: &str, is_right: impl Fn(f64) -> bool) -> f64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name).await;
            if is_right(value) {
                return value;
            }
            if tokio::time::Instant::now() > deadline {
                panic!("{name} stays at {value}; the relay's log:\n{}", self.log());
            }
            pause_between_polls().await;
        }
    }

    pub async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(self.address, path).await
    }
}

/// Status and body of a GET. Without a library: the tests are not about HTTP.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {METRICS_TOKEN}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// The sum of the samples of the metrics whose names contain `name`, of that one alone after `=`; `None`: there are none.
pub fn sample(metrics: &str, name: &str) -> Option<f64> {
    let is_meant = |known: &str| name.strip_prefix('=').map_or_else(|| known.contains(name), |name| known == name);
    let of_name = |line: &&str| !line.starts_with('#') && line.split(['{', ' ']).next().is_some_and(is_meant);
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    let samples: Vec<f64> =
        metrics.lines().filter(of_name).map(|line| value(line).expect("a sample has a value")).collect();
    (!samples.is_empty()).then(|| samples.iter().sum())
}

/// What every relay of a test is started with; flags of the test come after.
pub fn serve_arguments(url: &str, slot: &str) -> Vec<String> {
    let fixed = ["serve", "--database-url", url, "--slot", slot, "--jwt-secret", JWT_SECRET];
    let more = ["--metrics-token", METRICS_TOKEN, "--idle-timeout", "1d"];
    fixed.iter().chain(&more).map(|argument| (*argument).to_owned()).collect()
}

async fn listen(arguments: &[String], address: &str) -> (Program, SocketAddr) {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(["--listen", address]);
    let mut program = Program::spawn(&arguments);
    let line = program.says(&["listening on "]).await;
    let after = &line[line.to_lowercase().find("listening on ").expect("it is there") + "listening on ".len()..];
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(after.len());
    let address = after[..end].trim_end_matches('.').parse();
    (program, address.unwrap_or_else(|_| panic!("no address in {line:?}")))
}

/// For what nobody announces: between two questions others get the processor.
pub async fn pause_between_polls() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
