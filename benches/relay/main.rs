//! The numbers that the README states, as ratios against a floor measured in the same run.
//!
//! `cargo bench --bench relay -- stream|fanout|latency|memory|bulk|beside_bulk|rooms|resume` (all of them without a name).
//! Clients run in a process of their own: this program again, told so by its first argument.
//!
//! Sizes are variables, `WALCAST_BENCH_` and: `SAMPLES`, `ROWS`, `SOCKETS`, `ROUNDS`, `RATE`, `SECONDS`, `CONNECTIONS`,
//! `BULK_ROWS`, `PRESENT`; `OPTIONS` are those of the relay's sessions. `WALCAST_BENCH_BINARY` names another relay: the one
//! that `cargo bench` builds has tokio's `test-util`, whose clock is slower; `cargo build --release` makes one without. On a
//! loaded machine the spread says how much to believe.

mod beside_bulk;
mod bulk;
mod client;
mod fanout;
mod latency;
mod measure;
mod memory;
mod relay;
mod resume;
mod rooms;
mod stream;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match names.as_slice() {
            ["client", rest @ ..] => client::run(rest).await,
            ["floor", rest @ ..] => fanout::floor_server(rest).await,
            [] => {
                for name in ["stream", "fanout", "latency", "memory", "bulk", "beside_bulk", "rooms", "resume"] {
                    bench(name).await;
                }
            }
            names => {
                for name in names {
                    bench(name).await;
                }
            }
        }
    });
}

async fn bench(name: &str) {
    println!("\n## {name}");
    match name {
        "stream" => stream::run().await,
        "fanout" => fanout::run().await,
        "latency" => latency::run().await,
        "memory" => memory::run().await,
        "bulk" => bulk::run().await,
        "beside_bulk" => beside_bulk::run().await,
        "rooms" => rooms::run().await,
        "resume" => resume::run().await,
        _ => eprintln!("no such bench: {name} (stream, fanout, latency, memory, bulk, beside_bulk, rooms, resume)"),
    }
}
