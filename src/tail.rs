//! `walcast tail`: subscribes from the terminal and prints what comes, one JSON object a line.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::cli::TailArgs;
use crate::demo::client::PhoenixClient;
use crate::relay::BoxError;

/// Runs until the channel ends or Ctrl-C.
pub async fn run(args: TailArgs) -> Result<(), BoxError> {
    tokio::select! {
        ended = tail(args) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn tail(args: TailArgs) -> Result<(), BoxError> {
    let mut client = PhoenixClient::connect(&args.url, &args.token).await?;
    let topic = format!("realtime:{}", args.topic);
    client.join(&topic, json!([binding(&args)]), Some(&args.token)).await?;
    loop {
        let incoming = client.next().await?;
        let payload = &incoming.payload;
        match incoming.event.as_str() {
            "postgres_changes" => println!("{}", payload["data"]),
            // Standard output has the changes and nothing else.
            "system" => {
                eprintln!("{}: {}", text(&payload["status"]), text(&payload["message"]));
                if let Some(hint) = payload.get("hint") {
                    eprintln!("hint: {}", text(hint));
                }
                if let Some(position) = payload.pointer("/resume/position") {
                    eprintln!("position: {}", text(position));
                }
            }
            "phx_close" | "phx_error" => return Err("the relay ended the channel".into()),
            _ => {}
        }
    }
}

fn binding(args: &TailArgs) -> Value {
    let mut binding = json!({ "event": args.event, "schema": args.schema, "table": args.table });
    if let Some(filter) = &args.filter {
        binding["filter"] = filter.as_str().into();
    }
    if let Some(since) = &args.since {
        binding["since"] = since.as_str().into();
    }
    if args.positions {
        // With a key the relay keeps changes from here on, so that each position is one to go on from.
        binding["positions"] = true.into();
        binding["resume"] = generate_key().into();
    }
    binding
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
