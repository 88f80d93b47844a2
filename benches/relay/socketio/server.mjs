// A Socket.IO server that does what a room does: whoever connects is in one, and what one says the others hear.

import { createServer } from 'node:http'
import { Server } from 'socket.io'

const http = createServer()
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, serveClient: false })
io.on('connection', (socket) => {
  const { room } = socket.handshake.query
  if (room) socket.join(room)
  socket.on('say', (room, payload) => socket.to(room).emit('say', payload))
})
http.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${http.address().port}`))
