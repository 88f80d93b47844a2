// What a type checker makes of the helper. Never run.

import type { SupabaseClient } from '@supabase/supabase-js'
import { resumable } from '../../examples/resume.ts'

interface Todo {
  id: number
  title: string
}
interface Database {
  public: {
    Tables: { todos: { Row: Todo; Insert: Partial<Todo>; Update: Partial<Todo>; Relationships: [] } }
    Views: {}
    Functions: {}
  }
}

declare const typed: SupabaseClient<Database>
declare const untyped: SupabaseClient

const onGap = () => {}

resumable(typed, {
  channel: 'all',
  table: 'todos',
  onGap,
  onChange(change) {
    if (change.eventType === 'DELETE') return
    change.new.title satisfies string
    // @ts-expect-error: there is no such column.
    change.new.body
  },
})
resumable(typed, {
  channel: 'inserts',
  event: 'INSERT',
  table: 'todos',
  filter: 'id=gt.1',
  onGap: ({ reason }) => reason satisfies string,
  onResumed: ({ state }) => state satisfies 'started' | 'complete' | 'gap' | 'refused',
  onStatus: (status, error) => void [status satisfies string, error],
  onChange(change, position) {
    change.eventType satisfies 'INSERT'
    change.new satisfies Todo
    position satisfies string
  },
})
resumable(untyped, {
  channel: 'any row',
  event: 'DELETE',
  schema: 'app',
  table: 'anything',
  storage: null,
  onGap,
  onChange: (change) => change.old['whatever'],
})
// @ts-expect-error: what is missing has to be dealt with.
resumable(untyped, { channel: 'careless', table: 'todos', onChange() {} })
// @ts-expect-error: no such event.
resumable(untyped, { channel: 'wrong', table: 'todos', event: 'TRUNCATE', onGap, onChange() {} })
