//! A Postgres cluster that lives as long as its handle, or at the longest as this process.

use std::io::{self, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "no Postgres server programs found: install them (Debian: apt-get install postgresql) or set PG_BIN_DIR to the directory that has initdb and postgres"
    )]
    NoServer,
    #[error("{program} failed: {output}")]
    Program { program: &'static str, output: String },
    #[error("Postgres did not accept connections within {0:?}; its log:\n{1}")]
    NotReady(Duration, String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What differs from an ordinary throw-away cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Lines for `postgresql.conf`; later ones win over the defaults.
    pub settings: Vec<String>,
    /// `pg_hba.conf`; without it everybody is trusted.
    pub hba: Option<String>,
}

/// A running server. Dropping it stops the server and removes its files; so does the end of this process, because
/// a small supervisor shell holds the other end of a pipe.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    port: u16,
    supervisor: Option<Child>,
    bin: PathBuf,
}

/// Kills the server (SIGINT: fast shutdown) when standard input closes, then removes the directory.
const SUPERVISOR: &str = r#"
trap '' INT TERM
pidfile="$1/data/postmaster.pid"
cat >/dev/null
if [ -f "$pidfile" ]; then
  pid=$(head -n 1 "$pidfile")
  kill -INT "$pid" 2>/dev/null
  n=0
  while kill -0 "$pid" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
  kill -QUIT "$pid" 2>/dev/null
  while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
fi
rm -rf "$1"
"#;

impl Cluster {
    /// Initialises and starts a cluster with `wal_level = logical`, without fsync, on 127.0.0.1 and a unix socket.
    pub fn start(options: &ClusterOptions) -> Result<Cluster, ClusterError> {
        let bin = find_server_programs()?;
        let directory = fresh_directory()?;
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "walcast-postgres-supervisor"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut cluster = Cluster { directory, port: 0, supervisor: Some(supervisor), bin };
        cluster.initialise(options)?;
        cluster.start_server()?;
        Ok(cluster)
    }

    fn initialise(&mut self, options: &ClusterOptions) -> Result<(), ClusterError> {
        let data = self.data_directory();
        let mut initdb = self.program("initdb");
        initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "--no-sync", "-D"]).arg(&data);
        run(initdb, "initdb")?;
        self.port = free_port()?;
        let mut conf = std::fs::read_to_string(data.join("postgresql.conf"))?;
        conf.push_str(&format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.directory.display()
        ));
        // No fsync: the files do not outlive the process. Everything else as a production server has it.
        conf.push_str("fsync = off\nwal_level = logical\nmax_wal_senders = 100\nmax_replication_slots = 200\n");
        conf.push_str(
            "max_connections = 300\nshared_buffers = 64MB\nautovacuum_naptime = 5s\nlog_min_messages = warning\n",
        );
        for line in &options.settings {
            conf.push_str(line);
            conf.push('\n');
        }
        std::fs::write(data.join("postgresql.conf"), conf)?;
        if let Some(hba) = &options.hba {
            std::fs::write(data.join("pg_hba.conf"), hba)?;
        }
        Ok(())
    }

    /// Starts the server of a cluster that [`Cluster::stop`] has stopped.
    pub fn start_server(&self) -> Result<(), ClusterError> {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.args(["start", "--no-wait", "--silent", "-D"]).arg(self.data_directory()).arg("-l").arg(self.log_file());
        run(pg_ctl, "pg_ctl start")?;
        self.wait_until_ready(Duration::from_secs(60))
    }

    /// Stops the server as `pg_ctl stop -m MODE` does (`fast`, `immediate`, `smart`), waiting at most `limit`.
    pub fn stop(&self, mode: &str, limit: Duration) -> Result<(), ClusterError> {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.args(["stop", "-m", mode, "-t"]).arg(limit.as_secs().max(1).to_string());
        pg_ctl.arg("-D").arg(self.data_directory());
        run(pg_ctl, "pg_ctl stop")
    }

    fn wait_until_ready(&self, limit: Duration) -> Result<(), ClusterError> {
        let started = Instant::now();
        let pid_file = self.data_directory().join("postmaster.pid");
        while started.elapsed() < limit {
            // The eighth line says "ready" once connections are accepted (pg_ctl reads the same).
            let status = std::fs::read_to_string(&pid_file).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Err(ClusterError::NotReady(limit, self.log()))
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the unix socket (and of everything else that is the cluster's).
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A conninfo over TCP.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// A conninfo over the unix socket.
    pub fn socket_url(&self, user: &str, database: &str) -> String {
        let host = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres://{user}@{host}:{}/{database}", self.port)
    }

    /// A server program, run as the unprivileged user that owns the files where we are root.
    pub fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = match unprivileged_user() {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
                command
            }
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            drop(supervisor.stdin.take());
            let _ = supervisor.wait();
        }
    }
}

/// Where `initdb` is: `$PG_BIN_DIR`, then Debian's directories (newest first), then the PATH.
fn find_server_programs() -> Result<PathBuf, ClusterError> {
    if let Some(directory) = std::env::var_os("PG_BIN_DIR") {
        return Ok(directory.into());
    }
    let mut versions: Vec<u32> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    versions.sort_unstable();
    let debian = versions.into_iter().rev().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|p| p.to_path_buf()).collect::<Vec<_>>();
    debian.chain(on_path).find(|directory| directory.join("initdb").exists()).ok_or(ClusterError::NoServer)
}

/// Postgres refuses to run as root; Debian's package makes the user `postgres`, every Unix has `nobody`.
fn unprivileged_user() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().nth(1) != Some("0") {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = |user: &str| passwd.lines().any(|line| line.starts_with(&format!("{user}:")));
    Some(if known("postgres") { "postgres" } else { "nobody" })
}

/// A directory of our own that the unprivileged user may write to. Short: a unix socket's path has 107 bytes.
fn fresh_directory() -> Result<PathBuf, ClusterError> {
    let mut mktemp = Command::new("mktemp");
    mktemp.args(["-d", "-t", "walcast-pg.XXXXXX"]);
    let output = mktemp.output()?;
    if !output.status.success() {
        return Err(ClusterError::Program {
            program: "mktemp",
            output: String::from_utf8_lossy(&output.stderr).into(),
        });
    }
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if let Some(user) = unprivileged_user() {
        let mut chown = Command::new("chown");
        chown.arg(format!("{user}:")).arg(&directory);
        run(chown, "chown")?;
    }
    Ok(directory)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn run(mut command: Command, program: &'static str) -> Result<(), ClusterError> {
    // Not `output()`: a daemon that inherits the pipe would keep it open for ever.
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let mut output = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut output)?;
    }
    Err(ClusterError::Program { program, output })
}
