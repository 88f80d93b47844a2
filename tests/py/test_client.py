"""The published Python client (vsn 1.0.0, no join_ref, strict decoding) against walcast."""

import logging
import unittest
import uuid

from realtime import RealtimeSubscribeStates

from stack import Complaints, Inbox, Stack, user

ALICE, BOB = str(uuid.uuid4()), str(uuid.uuid4())


def setUpModule():
    global stack
    stack = Stack()


def tearDownModule():
    stack.stop()


class Client(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.complaints = Complaints()
        logging.getLogger("realtime").addHandler(self.complaints)
        logging.getLogger("realtime").propagate = False
        self.clients = []

    async def asyncTearDown(self):
        for client in self.clients:
            await client.close()
        logging.getLogger("realtime").removeHandler(self.complaints)
        undecodable = [line for line in self.complaints.lines if "Unrecognized" in line]
        self.assertEqual(undecodable, [], "every frame must pass the client's own validation")

    def client(self, token=None):
        client = stack.client(token)
        self.clients.append(client)
        return client

    async def subscribe(self, channel):
        states = Inbox()
        await channel.subscribe(states.push)
        state, error = await states.next()
        self.assertEqual(state, RealtimeSubscribeStates.SUBSCRIBED, error)
        return channel

    def channel(self, client, topic, *, private=False, own=False, ack=False, key=""):
        config = {"broadcast": {"ack": ack, "self": own}, "presence": {"key": key, "enabled": False}}
        return client.channel(topic, {"config": config | {"private": private}})

    async def test_changes(self):
        """Filtered row changes reach their person with all that the client's types ask for; nobody else's do."""
        changes, strangers, system = Inbox(), Inbox(), Inbox()
        alice, bob = self.client(user(ALICE)), self.client(user(BOB))
        session = str(uuid.uuid4())
        mine = self.channel(alice, f"messages-{session}")
        mine.on_postgres_changes("*", changes.push, "live_chat_sessions", "public", f"id=eq.{session}")
        mine.on_system(system.push)
        his = self.channel(bob, f"messages-{session}")
        his.on_postgres_changes("*", strangers.push, "live_chat_sessions", "public")
        await self.subscribe(mine)
        await self.subscribe(his)
        await system.next()
        stack.sql("insert into live_chat_sessions (id, user_id, subject) values (%s, %s, 'help')", session, ALICE)
        stack.sql("update live_chat_sessions set subject = 'more help' where id = %s", session)
        stack.sql("delete from live_chat_sessions where id = %s", session)
        inserted, updated, deleted = [(await changes.next())["data"] for _ in range(3)]
        self.assertEqual([inserted["type"], updated["type"], deleted["type"]], ["INSERT", "UPDATE", "DELETE"])
        self.assertEqual(inserted["record"]["subject"], "help")
        self.assertEqual(updated["old_record"]["subject"], "help")
        self.assertEqual(deleted["old_record"]["id"], session)
        own = str(uuid.uuid4())
        stack.sql("insert into live_chat_sessions (id, user_id) values (%s, %s)", own, BOB)
        self.assertEqual((await strangers.next())["data"]["record"]["id"], own)

    async def test_refused_join(self):
        """A channel that nobody may read is refused in words, and the socket goes on."""
        client = self.client(user(ALICE))
        states = Inbox()
        await self.channel(client, "nobody-may", private=True).subscribe(states.push)
        state, error = await states.next()
        self.assertEqual(state, RealtimeSubscribeStates.CHANNEL_ERROR)
        self.assertIn("Unauthorized", str(error))
        await self.subscribe(self.channel(client, "everybody-may"))

    async def test_broadcast(self):
        """Broadcasts reach the others, and their sender where it asked for them."""
        heard, own = Inbox(), Inbox()
        one, two = self.client(), self.client()
        sender = self.channel(one, "room", own=True, ack=True)
        sender.on_broadcast("cursor", own.push)
        await self.subscribe(sender)
        listener = self.channel(two, "room")
        listener.on_broadcast("cursor", heard.push)
        await self.subscribe(listener)
        await sender.send_broadcast("cursor", {"x": 1, "who": "ü"})
        for inbox in (heard, own):
            message = await inbox.next()
            self.assertEqual((message["event"], message["payload"]), ("cursor", {"x": 1, "who": "ü"}))

    async def test_broadcast_over_http(self):
        """What is posted to the single-event endpoint reaches sockets; bytes have no form in this version."""
        heard = Inbox()
        listener = self.channel(self.client(), "posted")
        listener.on_broadcast("news", heard.push)
        await self.subscribe(listener)
        sender = self.channel(self.client(), "posted")
        await sender.http_send("news", b"\x00\x01")
        await sender.http_send("news", {"n": 1})
        self.assertEqual((await heard.next())["payload"], {"n": 1})

    async def test_presence(self):
        """Somebody who tracks is seen to come and, when the socket goes, to leave."""
        joins, leaves = Inbox(), Inbox()
        watcher, visitor = self.client(), self.client()
        watching = self.channel(watcher, "lobby")
        watching.on_presence_join(joins.push)
        watching.on_presence_leave(leaves.push)
        await self.subscribe(watching)
        visiting = self.channel(visitor, "lobby", key="visitor")
        visiting.on_presence_sync(lambda: None)
        await self.subscribe(visiting)
        await visiting.track({"name": "Ada"})
        key, _, new = await joins.next()
        self.assertEqual((key, new[0]["name"]), ("visitor", "Ada"))
        await visitor.close()
        self.assertEqual((await leaves.next())[0], "visitor")
        self.assertEqual(watching.presence_state(), {})

    async def test_broadcast_from_the_database(self):
        """`realtime.send` reaches public and private channels, each only its own."""
        stack.sql("drop policy if exists readers on realtime.messages")
        stack.sql(
            "create policy readers on realtime.messages for select to authenticated"
            " using (realtime.topic() = 'room:' || auth.uid()::text)"
        )
        private, public = Inbox(), Inbox()
        mine = self.channel(self.client(user(ALICE)), f"room:{ALICE}", private=True)
        mine.on_broadcast("db", private.push)
        await self.subscribe(mine)
        everybodys = self.channel(self.client(), f"room:{ALICE}")
        everybodys.on_broadcast("db", public.push)
        await self.subscribe(everybodys)
        stack.sql("""select realtime.send('{"n": 1}', 'db', %s, true)""", f"room:{ALICE}")
        stack.sql("""select realtime.send('{"n": 2}', 'db', %s, false)""", f"room:{ALICE}")
        self.assertEqual((await private.next())["payload"]["n"], 1)
        self.assertEqual((await public.next())["payload"]["n"], 2)

    async def test_new_token(self):
        """A token that is set later holds for the channels that are open."""
        changes, system = Inbox(), Inbox()
        client = self.client(user(BOB))
        channel = self.channel(client, "sessions")
        channel.on_postgres_changes("INSERT", changes.push, "live_chat_sessions", "public")
        channel.on_system(system.push)
        await self.subscribe(channel)
        await system.next()
        await client.set_auth(user(ALICE))
        await system.next()
        ids = [str(uuid.uuid4()) for _ in range(2)]
        for sub, id in zip([BOB, ALICE], ids):
            stack.sql("insert into live_chat_sessions (id, user_id) values (%s, %s)", id, sub)
        self.assertEqual((await changes.next())["data"]["record"]["id"], ids[1])


if __name__ == "__main__":
    unittest.main()
