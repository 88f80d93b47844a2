//! `log_level`: what a client asks to have logged of itself.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::people;
use crate::support::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_for_it_is_logged_and_no_other() {
    let scene = Scene::new("").await;
    for (parameter, topic) in [("", "quiet"), ("&log_level=error", "silent"), ("&log_level=info", "chatty")] {
        let key = people::alice().token();
        let url = format!("ws://{}/socket/websocket?apikey={key}&vsn=2.0.0{parameter}", scene.relay.address);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a socket");
        let join = format!(r#"["1","1","realtime:{topic}","phx_join",{{"config":{{}},"access_token":"no token"}}]"#);
        socket.send(Message::text(join)).await.expect("a join");
        let reply = socket.next().await.expect("a reply").expect("a reply");
        assert!(reply.to_text().unwrap_or_default().contains("MalformedJWT"), "{reply:?}");
    }
    let mut log = scene.relay.log_receiver();
    let log = log.wait_for(|log| log.contains("realtime:chatty")).await.expect("a log").clone();
    assert!(log.contains("MalformedJWT"), "{log}");
    assert!(!log.contains("realtime:quiet") && !log.contains("realtime:silent"), "{log}");
}
