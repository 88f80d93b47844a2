//! A change of our own, after which the relay has sent whatever the changes before it were to send.

use super::connection::Connection;
use super::message::number;
use super::replay::{PATIENCE, Stage};
use super::token;
use super::transcript::Frame;

/// A table whose changes mark the ends of cases; bindings to a whole schema hear of it too.
pub const FENCE: &str = "walcast_fence";

pub const FENCE_SCHEMA: &str = "create table walcast_fence (id bigint generated always as identity primary key);
    grant select on walcast_fence to service_role;
    alter publication supabase_realtime add table walcast_fence;";

/// A channel that hears of it.
pub struct Fence(Connection);

impl Fence {
    /// Returns when the relay has sent what it had to send before.
    pub async fn pass(&mut self, stage: &Stage<'_>) -> Result<(), String> {
        let insert = "insert into walcast_fence default values returning id";
        let row = stage.database.query_one(insert, &[]).await.map_err(|error| format!("{error:?}"))?;
        let id = row.get::<_, i64>(0).to_string();
        loop {
            let mut message = self.0.message("realtime:fence", PATIENCE).await?;
            if message.change().is_some_and(|change| number(&change["record"]["id"]) == Some(&id)) {
                return Ok(());
            }
        }
    }

    pub async fn open(stage: &Stage<'_>, now: i64) -> Result<Fence, String> {
        let key = token::of_role("service_role", now);
        let path = format!("/socket/websocket?apikey={key}&vsn=2.0.0");
        let mut watcher = Connection::open(stage.address, &path, "localhost", &[]).await?;
        watcher.hear_fences();
        let bindings = format!(r#"[{{"event":"INSERT","schema":"public","table":"{FENCE}"}}]"#);
        let join = format!(r#"["1","1","realtime:fence","phx_join",{{"config":{{"postgres_changes":{bindings}}}}}]"#);
        watcher.send(Frame::Text(join)).await?;
        let reply = watcher.message("realtime:fence", PATIENCE).await?;
        match reply.payload["status"] == "ok" {
            true => Ok(Fence(watcher)),
            false => Err(format!("the fence was refused: {reply:?}")),
        }
    }
}
