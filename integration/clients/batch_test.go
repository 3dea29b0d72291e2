//go:build integration && unix

package clients

import (
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// encodeRecordBatch returns a record batch of keys and values, uncompressed and not
// idempotent, all of one time.
func encodeRecordBatch(timestamp int64, records [][2][]byte) []byte {
	var body []byte
	for i, r := range records {
		k := kmsg.Record{OffsetDelta: int32(i), Key: r[0], Value: r[1]}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // without the length's own byte, which is that of 0
		body = k.AppendTo(body)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(records) - 1),
		FirstTimestamp: timestamp, MaxTimestamp: timestamp,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(records)), Records: body,
	}
	const head, crcEnd = 12, 21 // offset and length; all up to the CRC
	raw := b.AppendTo(nil)
	b.Length = int32(len(raw) - head)
	b.CRC = int32(crc32.Checksum(raw[crcEnd:], crc32.MakeTable(crc32.Castagnoli)))
	return b.AppendTo(nil)
}
