//! `walcast tail` against a relay.

use crate::support::people::anon;
use crate::support::relay::Program;
use crate::support::scene::Scene;

const NOTES: &str = "
    create table notes (id int primary key, body text);
    grant select on notes to anon;
    alter publication supabase_realtime add table notes;";

#[tokio::test]
async fn tail_goes_on_from_a_position() {
    let scene = Scene::new(NOTES).await;
    let (url, token) = (format!("ws://{}", scene.relay.address), anon().token());
    let tail = |more: &[&str]| {
        let arguments = [&["tail", "notes", "--url", &url, "--token", &token][..], more].concat();
        Program::spawn(&arguments)
    };
    let mut first = tail(&["--positions"]);
    first.says(&["position: "]).await;
    scene.execute("insert into notes values (1, 'seen')").await;
    let line = first.says(&["seen"]).await;
    let change: serde_json::Value = serde_json::from_str(&line).unwrap();
    let position = change["record"]["walcast_position"].as_str().unwrap().to_owned();
    drop(first);
    scene.execute("insert into notes values (2, 'missed')").await;

    let mut second = tail(&["--since", &position]);
    // What had not been read yet when it came is live.
    second.says(&["missed"]).await;
    second.says(&["nothing is missing"]).await;
    second.says(&["position: ", ":1:"]).await;
    let log = second.log();
    assert!(log.contains("missed") && !log.contains("seen") && !log.contains("walcast_position"), "{log}");
    let mut lost = tail(&["--since", "1:1:0/10:0"]);
    lost.says(&["gap", "another database"]).await;
}
