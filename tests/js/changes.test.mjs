// What a subscription says and what it then receives: shapes, events, filters, columns, bindings, roles, errors.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Inbox, listen, rows, startStack, subscribe } from './harness.mjs'

const userId = '11111111-1111-4111-8111-111111111111'
const workspace = 'bbbbbbbb-0000-4000-8000-000000000001'

let stack, service

before(async () => {
  stack = await startStack()
  service = stack.service()
  await stack.sql('insert into workspace_members (workspace_id, user_id) values ($1, $2)', [workspace, userId])
})
after(() => stack?.stop())

const announce = async (title, more = {}) =>
  (await rows(service.from('announcements').insert({ title, published: true, ...more }).select())).at(0)
const announcements = (event = '*', more = {}) => ({ event, schema: 'public', table: 'announcements', ...more })

test('an insert, an update and a delete arrive with what the default replica identity has', async () => {
  const { changes } = await listen(stack.anonymous(), 'news', announcements())
  const row = await announce('one')
  await rows(service.from('announcements').update({ body: 'text' }).eq('id', row.id))
  await rows(service.from('announcements').delete().eq('id', row.id))

  const [inserted, updated, deleted] = [await changes.next(), await changes.next(), await changes.next()]
  for (const change of [inserted, updated, deleted]) {
    assert.equal(change.schema, 'public')
    assert.equal(change.table, 'announcements')
    assert.match(change.commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.equal(change.errors, null)
  }
  assert.equal(inserted.eventType, 'INSERT')
  assert.deepEqual(inserted.new, row) // PostgREST and walcast write a row as the same JSON.
  assert.deepEqual(inserted.old, {})
  assert.equal(updated.eventType, 'UPDATE')
  assert.deepEqual(updated.new, { ...row, body: 'text' })
  assert.deepEqual(updated.old, { id: row.id })
  assert.equal(deleted.eventType, 'DELETE')
  assert.deepEqual(deleted.new, {})
  assert.deepEqual(deleted.old, { id: row.id })
})

test('a row under replica identity full arrives with its old values', async () => {
  const { changes } = await listen(stack.user(userId), 'people', { event: 'UPDATE', schema: 'public', table: 'contacts' })
  const [row] = await rows(service.from('contacts').insert({ workspace_id: workspace, name: 'Eve' }).select())
  await rows(service.from('contacts').update({ name: 'Eva', email: 'e@example.org' }).eq('id', row.id))
  const change = await changes.next()
  assert.deepEqual(change.old, row)
  assert.deepEqual(change.new, { ...row, name: 'Eva', email: 'e@example.org' })
})

test('the event of a binding is the only one it receives', async () => {
  const anonymous = stack.anonymous()
  const inserts = await listen(anonymous, 'inserts', announcements('INSERT'))
  const updates = await listen(anonymous, 'updates', announcements('UPDATE'))
  const deletes = await listen(anonymous, 'deletes', announcements('DELETE'))
  for (const title of ['a', 'b']) {
    const { id } = await announce(title)
    await rows(service.from('announcements').update({ title: `${title}!` }).eq('id', id))
    await rows(service.from('announcements').delete().eq('id', id))
    assert.equal((await inserts.changes.next()).new.title, title)
    assert.equal((await updates.changes.next()).new.title, `${title}!`)
    assert.equal((await deletes.changes.next()).old.id, id)
  }
})

test('filters select by value, by comparison, by list and in combination', async () => {
  const anonymous = stack.anonymous()
  const cases = {
    'title=eq.two': ['two'],
    'title=neq.two': ['one', 'three', 'end'],
    'title=in.(one,three,end)': ['one', 'three', 'end'],
    'title=like.t%': ['two', 'three'],
    'title=not.in.(one,two)': ['three', 'end'],
    'title=neq.one,body=eq.long': ['three', 'end'],
    'id=gt.0': ['one', 'two', 'three', 'end'],
    'published=is.true': ['one', 'two', 'three', 'end'],
  }
  const listening = new Map()
  for (const filter of Object.keys(cases)) {
    listening.set(filter, await listen(anonymous, `filter ${filter}`, announcements('INSERT', { filter })))
  }
  for (const [title, body] of [['one', 'short'], ['two', 'short'], ['three', 'long'], ['end', 'long']]) {
    await announce(title, { body })
  }
  for (const [filter, { changes }] of listening) {
    const titles = []
    for (const _ of cases[filter]) titles.push((await changes.next(filter)).new.title)
    assert.deepEqual(titles, cases[filter], filter)
  }
})

test('select leaves the named columns and the primary key', async () => {
  const { changes } = await listen(stack.anonymous(), 'titles', announcements('*', { select: ['title'] }))
  const { id } = await announce('slim', { body: 'x'.repeat(1000) })
  await rows(service.from('announcements').update({ title: 'slimmer' }).eq('id', id))
  assert.deepEqual((await changes.next()).new, { id, title: 'slim' })
  assert.deepEqual((await changes.next()).new, { id, title: 'slimmer' })
})

test('several bindings on one channel each call their own listener', async () => {
  const heard = { all: [], contacts: [], urgent: [] }
  const listener = (name) => (change) => heard[name].push(`${change.table} ${change.eventType}`)
  const client = stack.user(userId)
  await client.realtime.setAuth()
  const dashboard = client
    .channel('dashboard')
    .on('postgres_changes', announcements('INSERT'), listener('all'))
    .on('postgres_changes', announcements('INSERT', { filter: 'title=eq.urgent' }), listener('urgent'))
    .on('postgres_changes', { event: '*', schema: 'public', table: 'contacts' }, listener('contacts'))
  const last = new Inbox()
  dashboard.on('postgres_changes', announcements('UPDATE', { filter: 'title=eq.last' }), last.push)
  await subscribe(dashboard)

  const { id } = await announce('urgent')
  await announce('idle')
  await rows(service.from('contacts').insert({ workspace_id: workspace, name: 'Mallory' }))
  await rows(service.from('announcements').update({ title: 'last' }).eq('id', id))
  await last.next()
  assert.deepEqual(heard, {
    all: ['announcements INSERT', 'announcements INSERT'],
    urgent: ['announcements INSERT'],
    contacts: ['contacts INSERT'],
  })
})

test('a subscription to a schema hears all its published tables in commit order', async () => {
  const { changes } = await listen(service, 'everything', { event: '*', schema: 'public' })
  await stack.sql(`with a as (insert into announcements (title, published) values ('in one', true) returning id)
    insert into contacts (workspace_id, name) select '${workspace}', 'transaction' from a`)
  const [first, second] = [await changes.next(), await changes.next()]
  assert.deepEqual([first.table, second.table].sort(), ['announcements', 'contacts'])
  assert.equal(first.commit_timestamp, second.commit_timestamp)
})

test('the service role sees what no policy shows to others', async () => {
  const all = await listen(service, 'drafts', announcements('INSERT'))
  const some = await listen(stack.anonymous(), 'drafts', announcements('INSERT'))
  await announce('draft', { published: false })
  await announce('public')
  assert.equal((await all.changes.next()).new.title, 'draft')
  assert.equal((await all.changes.next()).new.title, 'public')
  assert.equal((await some.changes.next()).new.title, 'public')
})

test('"Subscribed to PostgreSQL" follows the join, and an unpublished table is an error in words', async () => {
  const good = await listen(stack.anonymous(), 'good', announcements())
  const subscribed = await good.system.next()
  assert.equal(subscribed.status, 'ok')
  assert.equal(subscribed.message, 'Subscribed to PostgreSQL')
  assert.equal(subscribed.extension, 'postgres_changes')
  assert.equal(subscribed.channel, 'good')

  const bad = await listen(stack.user(userId), 'bad', {
    event: 'INSERT',
    schema: 'public',
    table: 'workspace_members',
    filter: `user_id=eq.${userId}`,
  })
  const refused = await bad.system.next()
  assert.equal(refused.status, 'error')
  assert.equal(
    refused.message,
    'Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect ' +
      'parameters: [event: INSERT, schema: public, table: workspace_members, filters: ' +
      `[{"user_id", "eq", "${userId}", false}], select: nil]`,
  )
})

test('a filter that Postgres refuses is an error of that channel alone', async () => {
  const client = stack.anonymous()
  const bad = await listen(client, 'bad filter', announcements('*', { filter: 'id=eq.abc' }))
  const good = await listen(client, 'good filter', announcements('INSERT', { filter: 'title=eq.still here' }))
  const refused = await bad.system.next()
  assert.equal(refused.status, 'error')
  assert.match(refused.message, /invalid input syntax for type bigint: "abc"/)
  await announce('still here')
  assert.equal((await good.changes.next()).new.title, 'still here')
})

test('a client that speaks the 1.0.0 serializer gets the same', async () => {
  const client = stack.anonymous({ realtime: { vsn: '1.0.0' } })
  const { changes, system, channel } = await listen(client, 'old', announcements('INSERT'))
  assert.equal((await system.next()).message, 'Subscribed to PostgreSQL')
  const row = await announce('in the old frame')
  assert.deepEqual((await changes.next()).new, row)
  assert.equal(await channel.unsubscribe(), 'ok')
})

test('values arrive as PostgREST writes them', async () => {
  await stack.sql(`
    create type mood as enum ('sad', 'ok');
    create table kinds (id int primary key, n numeric, f float8, b boolean, j jsonb, a int[], t timestamptz, m mood, u uuid);
    grant all on kinds to anon, authenticated, service_role;
    alter publication supabase_realtime add table kinds`)
  const { changes } = await listen(stack.anonymous(), 'kinds', { event: 'INSERT', schema: 'public', table: 'kinds' })
  await stack.sql(`insert into kinds values (1, 1.5, 0.1, true, '{"a": [1, null, "x"]}', '{1,null,3}',
    '2026-01-02 03:04:05.678+00', 'ok', '${userId}'), (2, null, null, null, null, null, null, null, null)`)
  assert.deepEqual((await changes.next()).new, {
    id: 1,
    n: 1.5,
    f: 0.1,
    b: true,
    j: { a: [1, null, 'x'] },
    a: [1, null, 3],
    t: '2026-01-02T03:04:05.678+00:00',
    m: 'ok',
    u: userId,
  })
  assert.deepEqual((await changes.next()).new, {
    id: 2,
    ...{ n: null, f: null, b: null, j: null, a: null, t: null, m: null, u: null },
  })
})
