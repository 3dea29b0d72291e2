'use strict'
// Members of groups and producers of transactions, as remote_test.go orders them.

const readline = require('node:readline')
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const working = new Map() // what ends an order's work, by its id

function tell (order, event, more = {}) {
  process.stdout.write(JSON.stringify({ id: order.id, event, ...more }) + '\n')
}

function client (order) {
  return new Kafka({ clientId: 'kafkajs', brokers: order.bootstrap.split(','), logLevel: logLevel.ERROR })
}

function newProducer (order, settings = {}) {
  // kafkajs numbers its records correctly only with one request in flight.
  return client(order).producer({ maxInFlightRequests: 1, idempotent: true, ...settings })
}

async function write (order) {
  const producer = newProducer(order)
  await producer.connect()
  await producer.send({
    topic: order.topic,
    compression: order.codec === 'gzip' ? CompressionTypes.GZIP : CompressionTypes.None,
    messages: order.values.map(value => ({ partition: order.partition, value }))
  })
  await producer.disconnect()
}

// consume hands each batch to the function work until the order is asked to leave, or
// work returns true.
async function consume (order, work) {
  const consumer = client(order).consumer({
    groupId: order.group,
    heartbeatInterval: 300, // hears of a rebalance with a heartbeat
    maxWaitTimeInMs: 100,
    readUncommitted: !order.committed
  })
  const ended = new Promise((resolve, reject) => {
    working.set(order.id, resolve)
    consumer.on(consumer.events.GROUP_JOIN, e => tell(order, 'assigned', { partitions: e.payload.memberAssignment[order.topic] || [] }))
    consumer.on(consumer.events.CRASH, e => reject(e.payload.error))
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [order.topic], fromBeginning: true })
  let over = false
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isStale, isRunning }) => {
      if (over || isStale() || !isRunning()) {
        return
      }
      over = await work(consumer, batch)
      resolveOffset(batch.lastOffset())
      await heartbeat()
      if (over) {
        working.get(order.id)()
      }
    }
  })
  try {
    await ended
  } finally {
    await consumer.disconnect()
  }
}

function tellRecords (order, batch) {
  tell(order, 'records', {
    records: batch.messages.map(m => ({ partition: batch.partition, offset: Number(m.offset), value: m.value.toString() }))
  })
}

function next (batch) {
  return (BigInt(batch.lastOffset()) + 1n).toString()
}

async function join (order) {
  await consume(order, async (consumer, batch) => {
    await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset: next(batch) }])
    tellRecords(order, batch)
  })
}

async function pipe (order) {
  const producer = newProducer(order, { transactionalId: order.transaction })
  await producer.connect()
  try {
    await consume(order, (consumer, batch) => copy(order, producer, batch))
  } finally {
    await producer.disconnect()
  }
}

async function copy (order, producer, batch) {
  const transaction = await producer.transaction()
  await transaction.send({
    topic: order.to,
    messages: batch.messages.map(m => ({ partition: batch.partition, value: m.value }))
  })
  await transaction.sendOffsets({
    consumerGroupId: order.group,
    topics: [{ topic: batch.topic, partitions: [{ partition: batch.partition, offset: next(batch) }] }]
  })
  if (order.poison && batch.messages.some(m => m.value.toString() === order.poison)) {
    await transaction.abort()
    return true
  }
  await transaction.commit()
  tellRecords(order, batch)
  return false
}

async function fence (order) {
  const send = (transaction, value) => transaction.send({ topic: order.topic, messages: [{ partition: order.partition, value }] })
  const first = newProducer(order, { transactionalId: order.transaction })
  const second = newProducer(order, { transactionalId: order.transaction })
  await first.connect()
  const old = await first.transaction()
  await send(old, 'zombie')
  await second.connect()
  const transaction = await second.transaction()
  let told = 'nothing: it has committed'
  try {
    await old.commit()
  } catch (e) {
    told = e.type || e.message
  }
  await send(transaction, 'alive')
  await transaction.commit()
  await first.disconnect()
  await second.disconnect()
  return told
}

const orders = { write, join, pipe, fence }

async function run (order) {
  try {
    const text = await orders[order.do](order)
    tell(order, 'done', { text: text || '' })
  } catch (e) {
    tell(order, 'failed', { text: e.stack })
  } finally {
    working.delete(order.id)
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', line => {
    const order = JSON.parse(line)
    if (order.do === 'leave') {
      const end = working.get(order.id)
      if (end) {
        end()
      }
      return
    }
    run(order)
  })
  .on('close', () => process.exit(0))
