//! The promises of outboxes, without a socket.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn outbox(bytes_max: usize, spill_bytes_max: usize) -> (Outbox, OutboxReader, Arc<Metrics>) {
    let config = Config { bytes_max, spill_bytes_max, ..Config::default() };
    let metrics = Arc::new(Metrics::default());
    let (outbox, reader) = Outbox::new(Arc::new(config), metrics.clone());
    (outbox, reader, metrics)
}

fn frame(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Writes up to `limit` bytes, as a socket would take them.
fn write(reader: &mut OutboxReader, limit: usize) -> String {
    let mut slices = [IoSlice::new(&[]); 8];
    let count = reader.slices(&mut slices);
    let mut bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
    bytes.truncate(limit);
    reader.advance(bytes.len());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn frames_leave_whole_and_in_order_however_little_the_socket_takes() {
    let (outbox, mut reader, metrics) = outbox(100, 100);
    let waker = Waker::noop();
    outbox.push(frame("one "));
    outbox.push_chunks([frame("t"), frame(""), frame("w"), frame("o ")]);
    assert!(reader.poll_take(&mut Context::from_waker(waker)).is_ready());
    outbox.push(frame("three"));
    let mut text = String::new();
    while text.len() < "one two three".len() {
        text += &write(&mut reader, 3);
        assert_eq!(outbox.len_bytes(), 13 - text.len());
        let _ = reader.poll_take(&mut Context::from_waker(waker));
    }
    assert_eq!(text, "one two three");
    assert!(reader.is_empty());
    assert_eq!(metrics.outbox_bytes.get(), 0);
}

#[test]
fn a_burst_wakes_when_it_is_let_go_and_once() {
    let (outbox, mut reader, _) = outbox(100, 100);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    assert!(reader.poll_take(&mut Context::from_waker(&waker)).is_pending());
    let mut burst = Burst::default();
    outbox.queue_chunks([frame("one")], &mut burst);
    outbox.queue_chunks([frame("two")], &mut burst);
    outbox.push(frame("three"));
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    drop(burst);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(reader.poll_take(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(write(&mut reader, 100), "onetwothree");
}

#[test]
fn a_burst_of_pushes_wakes_once() {
    let (outbox, mut reader, _) = outbox(100, 100);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    assert!(reader.poll_take(&mut Context::from_waker(&waker)).is_pending());
    for _ in 0..10 {
        outbox.push(frame("x"));
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(reader.poll_take(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(write(&mut reader, 100).len(), 8);
}

#[test]
fn a_blocked_connection_is_woken_by_trouble_only() {
    let (outbox, mut reader, _) = outbox(4, 8);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    reader.wait_for_trouble(&mut Context::from_waker(&waker));
    assert_eq!(outbox.push(frame("1234")), Pushed::Queued);
    assert_eq!(count.0.load(Ordering::Relaxed), 0);
    assert_eq!(outbox.push(frame("5")), Pushed::Full);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    reader.wait_for_trouble(&mut Context::from_waker(&waker));
    assert_eq!(outbox.push(frame("6")), Pushed::Full);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(outbox.push(frame("789")), Pushed::Closed);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert_eq!(outbox.closed(), Some(CloseReason::SlowConsumer));
}

#[test]
fn an_empty_outbox_takes_a_frame_of_any_size() {
    let (outbox, _reader, _) = outbox(2, 4);
    assert_eq!(outbox.push(frame("1234567")), Pushed::Full);
    assert_eq!(outbox.push(frame("8")), Pushed::Closed);
}

#[test]
fn reading_on_ends_being_full() {
    let (outbox, mut reader, _) = outbox(4, 100);
    outbox.push(frame("123456"));
    assert!(outbox.is_full());
    assert!(reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
    assert!(outbox.is_full());
    write(&mut reader, 3);
    assert!(!outbox.is_full());
}

#[test]
fn discarding_keeps_the_frame_that_the_client_is_reading() {
    let (outbox, mut reader, metrics) = outbox(100, 100);
    outbox.push_chunks([frame("he"), frame("ad"), frame("tail")]);
    outbox.push(frame("second"));
    assert!(reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(write(&mut reader, 2), "he");
    outbox.push(frame("third"));
    outbox.close(CloseReason::SlowConsumer);
    reader.discard();
    reader.push_last(frame("bye"));
    assert_eq!(outbox.push(frame("late")), Pushed::Closed);
    assert!(reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(write(&mut reader, 100), "adtailbye");
    assert_eq!(metrics.outbox_frames_discarded.get(), 2);
    assert_eq!(outbox.len_bytes(), 0);
}

#[test]
fn discarding_before_anything_was_written_keeps_nothing() {
    let (outbox, mut reader, metrics) = outbox(100, 100);
    outbox.push(frame("first"));
    assert!(reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
    reader.discard();
    assert!(reader.is_empty());
    drop(reader);
    assert_eq!(outbox.push(frame("x")), Pushed::Closed);
    assert_eq!(metrics.outbox_bytes.get(), 0);
}

#[test]
fn nothing_of_a_channel_is_queued_once_it_has_ended() {
    let (outbox, mut reader, _) = outbox(100, 100);
    let channel = ChannelOutbox::new(&outbox);
    assert_eq!(channel.push(frame("event ")), Pushed::Queued);
    // Ended by another thread when dispatch has already begun to push.
    let late = std::iter::once_with(|| {
        channel.end();
        outbox.push(frame("phx_close"));
        frame("late")
    });
    assert_eq!(channel.queue_chunks(late, &mut Burst::default()), Pushed::Closed);
    assert_eq!(channel.push(frame("later")), Pushed::Closed);
    assert_eq!(channel.queue_joined(frame("latest"), 2, &mut Burst::default()), Pushed::Closed);
    assert!(reader.poll_take(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(write(&mut reader, 100), "event phx_close");
}
