"""Members of groups and producers of transactions, as remote_test.go orders them."""

import asyncio
import json
import sys
import traceback

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

WAIT = 100  # ms that a poll waits for records
MOST = 10  # records of a poll


def tell(order, event, **more):
    print(json.dumps({"id": order["id"], "event": event, **more}), flush=True)


def tell_records(order, batch):
    tell(order, "records", records=[
        {"partition": r.partition, "offset": r.offset, "value": r.value.decode()} for r in batch])


async def write(order):
    codec = None if order["codec"] == "none" else order["codec"]
    async with AIOKafkaProducer(
            bootstrap_servers=order["bootstrap"], compression_type=codec, enable_idempotence=True) as producer:
        for value in order["values"]:
            await producer.send(order["topic"], value.encode(), partition=order["partition"])
        await producer.flush()


class Listener(ConsumerRebalanceListener):
    """Tells what a member is assigned."""

    def __init__(self, order):
        self.order = order

    async def on_partitions_revoked(self, revoked):
        pass  # whatever was read is committed

    async def on_partitions_assigned(self, assigned):
        tell(self.order, "assigned", partitions=[tp.partition for tp in assigned])


def new_consumer(order):
    consumer = AIOKafkaConsumer(
        bootstrap_servers=order["bootstrap"], group_id=order["group"], auto_offset_reset="earliest",
        enable_auto_commit=False, heartbeat_interval_ms=300,  # hears of a rebalance with a heartbeat
        isolation_level="read_committed" if order["committed"] else "read_uncommitted")
    consumer.subscribe([order["topic"]], listener=Listener(order))
    return consumer


async def poll(consumer):
    return await consumer.getmany(timeout_ms=WAIT, max_records=MOST)


async def join(order, leave):
    async with new_consumer(order) as consumer:
        while not leave.is_set():
            for tp, batch in (await poll(consumer)).items():
                await consumer.commit({tp: batch[-1].offset + 1})
                tell_records(order, batch)


def transactional(order):
    return AIOKafkaProducer(bootstrap_servers=order["bootstrap"], transactional_id=order["transaction"])


async def pipe(order, leave):
    async with new_consumer(order) as consumer, transactional(order) as producer:
        while not leave.is_set():
            polled = await poll(consumer)
            if not polled:
                continue
            batch = [r for records in polled.values() for r in records]
            await producer.begin_transaction()
            for r in batch:
                await producer.send(order["to"], r.value, partition=r.partition)
            await producer.send_offsets_to_transaction(
                {tp: records[-1].offset + 1 for tp, records in polled.items()}, order["group"])
            await producer.flush()
            if order.get("poison") in [r.value.decode() for r in batch]:
                await producer.abort_transaction()
                return
            await producer.commit_transaction()
            tell_records(order, batch)


async def fence(order):
    first, second = transactional(order), transactional(order)
    await first.start()
    await first.begin_transaction()
    await first.send_and_wait(order["topic"], b"zombie", partition=order["partition"])
    await second.start()
    told = "nothing: it has committed"
    try:
        await first.commit_transaction()
    except KafkaError as e:
        told = repr(e)
    await second.begin_transaction()
    await second.send_and_wait(order["topic"], b"alive", partition=order["partition"])
    await second.commit_transaction()
    await second.stop()
    try:
        await first.stop()
    except KafkaError:
        pass  # it has been told already that it is fenced
    return told


async def run(order, leave):
    try:
        text = ""
        if order["do"] == "write":
            await write(order)
        elif order["do"] == "join":
            await join(order, leave)
        elif order["do"] == "pipe":
            await pipe(order, leave)
        elif order["do"] == "fence":
            text = await fence(order)
        else:
            raise ValueError("unknown order " + order["do"])
        tell(order, "done", text=text)
    except Exception as e:
        traceback.print_exc()
        tell(order, "failed", text=repr(e))


async def main():
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    working = {}
    while line := await lines.readline():
        order = json.loads(line)
        if order["do"] == "leave":
            working[order["id"]][0].set()
            continue
        leave = asyncio.Event()
        working[order["id"]] = leave, asyncio.create_task(run(order, leave))


asyncio.run(main())
