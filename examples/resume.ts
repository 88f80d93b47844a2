/**
 * Postgres changes without a gap: `resumable(supabase, { channel, table, onChange, onGap })`.
 *
 * One file to copy into an application, with nothing behind it but supabase-js' types. It is an example and no package: all that it
 * does is to put keys into a binding and to read what comes back, so an application may as well do it by hand, or otherwise
 * (the README's section "Resume" has the lines). tests/js/helper.test.mjs runs it.
 *
 * What it does:
 * - Each change is handed to `onChange` once, in the order of commits, over cut connections, sleep and restarts of the relay.
 * - It keeps the position of the last change, in sessionStorage where there is one, so that a reloaded page goes on from there.
 * - `onGap` is called when something is missing: read what is shown from the database again.
 *
 * Why it passes both keys. `since`, its own position, is exact. But a position stands still while nothing changes here, and is
 * past the relay's retention some minutes later, whether or not anything was missed. By then it passes `resume` alone: the relay knows
 * from heartbeats how far the client is, and what comes twice is left out here. The key is made for each call and never stored: a
 * duplicated tab has the same sessionStorage, and two that share a key would acknowledge for each other.
 */
import type {
  RealtimeChannel,
  RealtimeChannelOptions,
  RealtimePostgresChangesPayload,
  SupabaseClient,
} from '@supabase/supabase-js'

type Row = Record<string, any>

/** The row type of a table, where the client was made with the types of a database; else any row. */
type RowOf<Database, Schema extends string, Table extends string> = 0 extends 1 & Database
  ? Row
  : Database extends { [schema in Schema]: { Tables: { [table in Table]: { Row: infer R extends Row } } } }
    ? R
    : Row

type Operation = 'INSERT' | 'UPDATE' | 'DELETE'

/** What `onChange` is given: narrowed to the event that was asked for. */
export type ChangeOf<R extends Row, Event extends Operation | '*'> = Event extends Operation
  ? Extract<RealtimePostgresChangesPayload<R>, { eventType: Event }>
  : RealtimePostgresChangesPayload<R>

/** What the relay says after each join. */
export interface Resumption {
  /** `started`: it did not know where this client was. `refused`: this channel is not remembered. */
  state: 'started' | 'complete' | 'gap' | 'refused'
  from?: string
  /** Where this client is now. */
  position: string
  /** Of a gap or a refusal. */
  reason?: string
}

export interface Gap {
  /** Where this client was. What comes behind it and before `to` may be missing in part. */
  from: string | undefined
  to: string
  reason: string
}

/** What is used of sessionStorage. */
export type PositionStorage = Pick<Storage, 'getItem' | 'setItem'>

export interface ResumableOptions<R extends Row, Event extends Operation | '*', Schema extends string, Table extends string> {
  /** The channel's name. The position is stored under it. */
  channel: string
  config?: RealtimeChannelOptions['config']
  event?: Event
  schema?: Schema
  table: Table
  filter?: string
  /** A change has been had when this returns, also by throwing. What it goes on with later (`async`) is its own affair. */
  onChange: (change: ChangeOf<R, Event>, position: string) => void
  onGap: (gap: Gap) => void
  /** After each join, behind what was replayed. */
  onResumed?: (resumption: Resumption) => void
  onStatus?: Parameters<RealtimeChannel['subscribe']>[0]
  /** `null`: the position is kept in memory alone. */
  storage?: PositionStorage | null
  /** The relay's --resume-retention: positions older than it are not passed. */
  retentionMs?: number
}

export interface Resumable {
  channel: RealtimeChannel
  /** Of the last change; `undefined`: none, and the relay has not said where this client is. */
  readonly position: string | undefined
}

/**
 * Makes a channel and subscribes it. `client.removeChannel(resumable.channel)` ends it. With the option `accessToken` of
 * createClient, `await client.realtime.setAuth()` before.
 */
export function resumable<
  Database,
  const Table extends string,
  const Schema extends string = 'public',
  const Event extends Operation | '*' = '*',
>(
  client: SupabaseClient<Database, any, any, any, any>,
  options: ResumableOptions<RowOf<Database, Schema, Table>, Event, Schema, Table>,
): Resumable {
  const { event = '*', schema = 'public', table, filter, retentionMs = 300_000 } = options
  const storage = options.storage === undefined ? sessionStorageIfAny() : options.storage
  // What is stored belongs to what was listened to.
  const item = `walcast:${JSON.stringify([options.channel, schema, table, event, filter ?? ''])}`

  let position = storage?.getItem(item) ?? undefined
  let positionAt = Date.now()
  let isJoined = false
  const had = (next: string) => {
    position = next
    positionAt = Date.now()
    try {
      storage?.setItem(item, next)
    } catch {
      // Full, or forbidden: then a reload starts anew.
    }
  }

  // A plain string as `filter`: supabase-js copies a binding whose filter is a builder, and with it what the getter says then.
  const binding = {
    event,
    schema,
    table,
    ...(filter !== undefined && { filter }),
    resume: randomKey(),
    positions: true,
    /** Read at each join. A position of before this page was loaded is all that there is. */
    get since() {
      return isJoined && Date.now() - positionAt > retentionMs ? undefined : position
    },
  }

  const channel = client.channel(options.channel, options.config && { config: options.config })
  channel
    .on('system', {}, (payload) => {
      const { resume } = payload as { resume?: Resumption }
      if (!resume) return
      const from = position
      const isOn = from === undefined || isBehind(resume.position, from)
      // The relay may know less of this client than the client does: a gap that ends before its position is none. One that
      // ends where it begins is somewhere behind. (Of two databases each position is behind the other.)
      const isOver = !isOn && resume.from !== resume.position && isBehind(from!, resume.position)
      const isLost = resume.state === 'gap' ? !isOver : resume.state !== 'complete' && from !== undefined
      if (isOn) had(resume.position)
      isJoined = true
      if (isLost) {
        const reason = resume.reason ?? 'the relay does not know any more where this client was'
        options.onGap({ from: resume.from ?? from, to: resume.position, reason })
      }
      options.onResumed?.(resume)
    })
    .on('postgres_changes', binding as never, (change: RealtimePostgresChangesPayload<Row>) => {
      const row: Row = change.eventType === 'DELETE' ? change.old : change.new
      const { walcast_position: at } = row
      delete row.walcast_position
      // Another server, or one that was told of no key: nothing to compare.
      if (typeof at !== 'string') return options.onChange(change as never, '')
      if (position !== undefined && !isBehind(at, position)) return
      try {
        options.onChange(change as never, at)
      } finally {
        had(at)
      }
    })
    .subscribe(options.onStatus)

  return {
    channel,
    get position() {
      return position
    },
  }
}

/** Whether a position stands behind another. Those of another database, or of a history that began later, always do. */
export function isBehind(position: string, other: string): boolean {
  const [one, two] = [parse(position), parse(other)]
  if (!one || !two || one.origin !== two.origin) return true
  return one.lsn > two.lsn || (one.lsn === two.lsn && one.index > two.index)
}

/** `system identifier:timeline:X/X:index`; without an index, the end of the transaction. */
function parse(position: string) {
  const [, origin, high, low, index] = /^(\d+:\d+):([0-9A-F]{1,8})\/([0-9A-F]{1,8})(?::(\d+))?$/i.exec(position) ?? []
  if (!origin) return undefined
  const lsn = (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`)
  return { origin, lsn, index: index === undefined ? Infinity : Number(index) }
}

/** 128 bits, so that nobody guesses it. Not randomUUID, which browsers have on secure pages alone. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

function sessionStorageIfAny(): PositionStorage | null {
  try {
    return globalThis.sessionStorage ?? null
  } catch {
    return null // A page that may store nothing.
  }
}
