//! The command line: parses, starts, and turns what came of it into an exit code. Decides nothing else.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::causes::with_causes;
use crate::change::Operation;
use crate::config::{DatabaseArgs, LogFormat, ServeArgs, SlotBudgetArgs, duration, variable};
use crate::dispatch::{Deletes, TableName};
use crate::relay::BoxError;
use crate::slot_command::SlotArgs;
use crate::wal::Conninfo;
use crate::{check, explain, setup};

/// Postgres changes to the people allowed to see them.
#[derive(Parser)]
#[command(name = "walcast", version, about, max_term_width = 110)]
pub struct Cli {
    /// What is logged, e.g. `info` or `walcast=debug,info`.
    #[arg(long, global = true, env = "WALCAST_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Logs as text or as JSON lines. They go to standard error.
    #[arg(long, global = true, env = "WALCAST_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Relay changes to clients.
    #[command(after_help = crate::config::SUPABASE_VARIABLES)]
    Serve(Box<ServeArgs>),
    /// Prepare a database: schema, event trigger, publications, logins. Run once, by its owner.
    Setup(SetupArgs),
    /// The DBA's doctor: what works, what does not, and the statement that mends it.
    Check(CheckArgs),
    /// Why a person gets an event of a row, or does not: every gate with its verdict.
    Explain(ExplainArgs),
    /// The replication slot: what it holds back and who keeps it there; drop it; skip what cannot be read.
    Slot(SlotArgs),
    /// Mint a development JWT (HS256).
    Token(TokenArgs),
    /// Subscribe from the terminal and print events as they arrive.
    Tail(TailArgs),
    /// A throw-away Postgres with a chat, the relay, and a scripted conversation.
    Demo(DemoArgs),
}

#[derive(Args)]
pub struct SetupArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// On a plain Postgres: also the roles anon, authenticated and service_role, and auth.uid(), auth.jwt(), auth.role(), auth.email().
    #[arg(long)]
    pub with_auth: bool,
    /// Print the SQL, run nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Give the logins new passwords although they have one.
    #[arg(long)]
    pub new_passwords: bool,
    /// Leave walcast's own publication as it is: tables that policies read are not put into it.
    #[arg(long)]
    pub no_track: bool,
    /// Take everything away again.
    #[arg(long, conflicts_with = "with_auth")]
    pub remove: bool,
}

#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Findings as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub slot_budget: SlotBudgetArgs,
}

#[derive(Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The oracle's login, where the one that `setup` left in the database is not to be used.
    #[arg(long, env = "WALCAST_ORACLE_URL", hide_env_values = true, value_name = "CONNINFO")]
    pub oracle_url: Option<String>,
    /// The table, e.g. messages or app.messages.
    #[arg(long, value_name = "TABLE")]
    pub table: String,
    /// The row: its primary key, or a JSON object of columns.
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// The person's claims, as the token carries them: JSON, with "role".
    #[arg(long, value_name = "JSON")]
    pub claims: String,
    /// INSERT, UPDATE or DELETE.
    #[arg(long, default_value = "INSERT", value_name = "EVENT")]
    pub event: String,
    /// The subscription's filter, e.g. session_id=eq.1
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// As `serve` is run with it.
    #[arg(long, env = "WALCAST_DELETES", value_enum, default_value_t, value_name = "MODE")]
    pub deletes: Deletes,
    /// As `serve` is run with it: schema.table, several times or with commas.
    #[arg(long, env = "WALCAST_DELETE_INDEX", value_delimiter = ',', value_name = "TABLE")]
    pub delete_index: Vec<TableName>,
    /// Findings as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct TokenArgs {
    /// The secret to sign with. Also API_JWT_SECRET and JWT_SECRET.
    #[arg(long, env = "WALCAST_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Option<String>,
    /// The `role` claim: a database role.
    #[arg(long, default_value = "authenticated", value_name = "ROLE")]
    pub role: String,
    /// The `sub` claim: what auth.uid() gives.
    #[arg(long, value_name = "UUID")]
    pub sub: Option<String>,
    /// More claims: a JSON object.
    #[arg(long, value_name = "JSON")]
    pub claims: Option<String>,
    /// How long it is valid.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub expires_in: std::time::Duration,
}

#[derive(Args)]
pub struct TailArgs {
    /// The relay.
    #[arg(long, env = "WALCAST_URL", default_value = "ws://127.0.0.1:4000", value_name = "URL")]
    pub url: String,
    /// A JWT (see `walcast token`).
    #[arg(long, env = "WALCAST_TOKEN", hide_env_values = true, value_name = "JWT")]
    pub token: String,
    /// The channel.
    #[arg(long, default_value = "tail", value_name = "TOPIC")]
    pub topic: String,
    #[arg(long, default_value = "public")]
    pub schema: String,
    /// A table, or * for all of the schema.
    #[arg(default_value = "*")]
    pub table: String,
    /// INSERT, UPDATE, DELETE or *.
    #[arg(long, default_value = "*")]
    pub event: String,
    /// E.g. session_id=eq.1
    #[arg(long)]
    pub filter: Option<String>,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Address and port for clients.
    #[arg(long, env = "WALCAST_LISTEN", default_value = "127.0.0.1:4000", value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// End after the conversation instead of running on.
    #[arg(long)]
    pub once: bool,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        if let Err(error) = start_log(&self.log, self.log_format) {
            eprintln!("walcast: {error}");
            return ExitCode::from(2);
        }
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("walcast: the runtime could not be started: {error}");
                return ExitCode::from(2);
            }
        };
        runtime.block_on(async {
            match self.command {
                Command::Serve(args) => report(Box::pin(crate::serve::run(*args)).await),
                Command::Setup(args) => report(setup(args).await),
                Command::Check(args) => check(args).await,
                Command::Explain(args) => match explain(args).await {
                    Ok(code) => code,
                    Err(error) => report(Err(error)),
                },
                Command::Slot(args) => match crate::slot_command::run(args).await {
                    Ok(true) => ExitCode::SUCCESS,
                    Ok(false) => ExitCode::FAILURE,
                    Err(error) => report(Err(error)),
                },
                Command::Token(args) => report(token(args)),
                Command::Tail(args) => report(crate::tail::run(args).await),
                Command::Demo(args) => {
                    let options = crate::demo::Options { listen: args.listen, once: args.once };
                    report(Box::pin(crate::demo::run(options)).await.map_err(Into::into))
                }
            }
        })
    }
}

fn start_log(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter:?}: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// An error and its causes, one line.
fn report(result: Result<(), BoxError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walcast: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// `walcast setup`.
async fn setup(args: SetupArgs) -> Result<(), BoxError> {
    let conninfo = Conninfo::parse(&args.database.conninfo(variable)?)?;
    let (mut client, connection) = conninfo.connect().await?;
    tokio::spawn(connection);
    let config = setup::Config {
        publications: vec![args.database.publication.clone()],
        slot: args.database.slot.clone(),
        with_auth: args.with_auth,
        new_passwords: args.new_passwords,
        track: !args.no_track,
        conninfo: Some(conninfo.clone()),
        authority: conninfo.address(),
        ..setup::Config::default()
    };
    if args.dry_run {
        let facts = setup::facts(&client, &config).await?;
        let mut steps = match args.remove {
            true => setup::removal(&facts, &config),
            false => setup::plan(&facts, &config, &setup::Secrets::generate()),
        };
        if config.track && !args.remove {
            // As far as it can be told before the rest is there.
            let tracking = setup::track(&mut client, &config).await?;
            steps.extend(tracking.steps);
            for (title, note) in tracking.left {
                println!("-- {title}\n--   {}", note.replace('\n', "\n--   "));
            }
        }
        print!("{}", setup::script(&steps));
        return Ok(());
    }
    let report = match args.remove {
        true => setup::remove(&mut client, &config).await?,
        false => setup::run(&mut client, &config).await?,
    };
    println!("{report}");
    Ok(())
}

/// `walcast check`: 0 where nothing fails, 1 otherwise.
async fn check(args: CheckArgs) -> ExitCode {
    let conninfo =
        match args.database.conninfo(variable).map_err(BoxError::from).and_then(|text| Ok(Conninfo::parse(&text)?)) {
            Ok(conninfo) => conninfo,
            Err(error) => return report(Err(error)),
        };
    let config = check::Config {
        publications: vec![args.database.publication.clone()],
        slot: args.database.slot.clone(),
        slot_budget: args.slot_budget.budget(),
    };
    let found = check::run(&conninfo, &config).await;
    match args.json {
        true => println!("{}", found.json()),
        false => println!("{found}"),
    }
    if found.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// `walcast explain`: 0 where the event is delivered, 1 otherwise.
async fn explain(args: ExplainArgs) -> Result<ExitCode, BoxError> {
    let conninfo = Conninfo::parse(&args.database.conninfo(variable)?)?;
    let claims: serde_json::Value =
        serde_json::from_str(&args.claims).map_err(|error| format!("--claims is not JSON: {error}"))?;
    let Some(role) = claims.get("role").and_then(serde_json::Value::as_str) else {
        return Err(
            "--claims has no \"role\": a token names the database role, e.g. {\"role\": \"authenticated\"}".into()
        );
    };
    let event = match args.event.to_ascii_uppercase().as_str() {
        "INSERT" => Operation::Insert,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        _ => return Err(format!("--event {:?}: it is INSERT, UPDATE or DELETE", args.event).into()),
    };
    let question = explain::Question {
        publication: args.database.publication.clone(),
        table: args.table,
        key: args.key,
        role: role.to_owned(),
        claims: args.claims.clone(),
        event,
        filter: args.filter,
        deletes: args.deletes,
        delete_indexes: args.delete_index,
    };
    let oracle_conninfo = args.oracle_url.as_deref().map(Conninfo::parse).transpose()?;
    let found = explain::with_oracle(&conninfo, oracle_conninfo, &question).await?;
    match args.json {
        true => println!("{}", found.json()),
        false => println!("{found}"),
    }
    Ok(if found.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn token(args: TokenArgs) -> Result<(), BoxError> {
    let secret = args.jwt_secret.or_else(|| variable("API_JWT_SECRET")).or_else(|| variable("JWT_SECRET"));
    let secret = secret.ok_or("no secret to sign with: pass --jwt-secret or set WALCAST_JWT_SECRET")?;
    let mut claims = match args.claims {
        None => serde_json::Map::new(),
        Some(text) => match serde_json::from_str(&text) {
            Ok(serde_json::Value::Object(claims)) => claims,
            Ok(_) => return Err("--claims is not a JSON object".into()),
            Err(error) => return Err(format!("--claims is not JSON: {error}").into()),
        },
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    claims.insert("role".into(), args.role.into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now + args.expires_in.as_secs()).into());
    if let Some(sub) = args.sub {
        claims.insert("sub".into(), sub.into());
    }
    println!("{}", crate::authz::jwt::mint(&secret, &claims)?);
    Ok(())
}
