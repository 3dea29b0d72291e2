package catalogue

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/tiering"
)

// CopyPrefix is the key prefix under which copies of the catalogue are stored.
const CopyPrefix = "cat/"

// Copy is what a cluster whose metadata store is lost needs beside its shards: who it is,
// its topics, and which producer ids were handed out.
type Copy struct {
	Cluster    Cluster
	CreatedAt  int64   // milliseconds since 1970, by the writer's clock; for people only
	Revision   int64   // of the metadata store that the topics were read at
	ProducerID int64   // the first producer id that nobody had taken then
	Topics     []Topic // ascending by name
}

// Copy, version 1. Numbers are big endian.
//
//	 0   8  magic "FLOECAT" 0
//	 8   2  version
//	10   2  reserved, 0
//	12  16  cluster id
//	28   4  format version of the cluster
//	32   4  number of shards
//	36   8  created at
//	44   8  revision
//	52   8  producer id
//	60   4  number of topics, each:
//	         0  2  length n of the name, n bytes
//	         2+n 4 length m of the value, m bytes: JSON as under its key in the metadata store
//	 L   4  CRC-32C of everything before
const (
	copyMagic   = "FLOECAT\x00"
	copyVersion = 1
	copyFixed   = 64
	copyTopic   = 6 // bytes of a topic besides name and value
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Copy returns the copy of a view, for EncodeCopy; ErrIncomplete if not all topics can be
// read by this version. producerID is the value of the allocator's key.
func (c *Catalogue) Copy(v View, producerID, createdAt int64) (Copy, error) {
	if err := v.complete(); err != nil {
		return Copy{}, err
	}
	out := Copy{Cluster: c.cluster, CreatedAt: createdAt, Revision: v.Revision(), ProducerID: producerID}
	for t := range v.Topics() {
		out.Topics = append(out.Topics, *t)
	}
	return out, nil
}

// Encode returns the copy as it is stored.
func (c *Copy) Encode() ([]byte, error) {
	id, err := base64.RawURLEncoding.DecodeString(c.Cluster.ID)
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("copy of the catalogue: cluster id %q: want 22 characters of base64", c.Cluster.ID)
	}
	be := binary.BigEndian
	b := append([]byte(copyMagic), 0, copyVersion, 0, 0)
	b = append(b, id...)
	b = be.AppendUint32(b, uint32(c.Cluster.FormatVersion))
	b = be.AppendUint32(b, c.Cluster.Shards)
	b = be.AppendUint64(b, uint64(c.CreatedAt))
	b = be.AppendUint64(b, uint64(c.Revision))
	b = be.AppendUint64(b, uint64(c.ProducerID))
	b = be.AppendUint32(b, uint32(len(c.Topics)))
	for i := range c.Topics {
		value, err := c.Topics[i].encode()
		if err != nil {
			return nil, err
		}
		b = be.AppendUint16(b, uint16(len(c.Topics[i].Name)))
		b = append(b, c.Topics[i].Name...)
		b = be.AppendUint32(b, uint32(len(value)))
		b = append(b, value...)
	}
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// DecodeCopy reads what Encode wrote. Nothing of a damaged copy is returned.
func DecodeCopy(b []byte) (Copy, error) {
	be := binary.BigEndian
	bad := func(format string, args ...any) (Copy, error) {
		return Copy{}, fmt.Errorf("copy of the catalogue: %s", fmt.Sprintf(format, args...))
	}
	if len(b) < copyFixed+4 || !bytes.HasPrefix(b, []byte(copyMagic)) {
		return bad("%d bytes do not begin as one", len(b))
	}
	body := b[:len(b)-4]
	if got, want := crc32.Checksum(body, castagnoli), be.Uint32(b[len(body):]); got != want {
		return bad("CRC-32C is %08x, stored is %08x", got, want)
	}
	if v := be.Uint16(body[8:]); v != copyVersion || body[10]|body[11] != 0 {
		return bad("version %d is not known, this release reads version %d", v, copyVersion)
	}
	c := Copy{
		Cluster: Cluster{
			ID:            base64.RawURLEncoding.EncodeToString(body[12:28]),
			FormatVersion: int(be.Uint32(body[28:])), Shards: be.Uint32(body[32:]),
		},
		CreatedAt: int64(be.Uint64(body[36:])), Revision: int64(be.Uint64(body[44:])), ProducerID: int64(be.Uint64(body[52:])),
	}
	if !level.Level(c.Cluster.FormatVersion).Known() || c.Cluster.Shards == 0 || c.Cluster.Shards > MaxShards || c.ProducerID < 0 || c.Revision < 0 {
		return bad("impossible cluster %+v, producer id %d, revision %d", c.Cluster, c.ProducerID, c.Revision)
	}
	count, rest := uint64(be.Uint32(body[60:])), body[copyFixed:]
	if count*copyTopic > uint64(len(rest)) {
		return bad("%d topics cannot fit in %d bytes", count, len(rest))
	}
	for range count {
		var name, value []byte
		if name, rest = cut(rest, 2); rest != nil {
			value, rest = cut(rest, 4)
		}
		if rest == nil {
			return bad("topic %d is cut off", len(c.Topics))
		}
		t, err := decodeTopic(string(name), value, c.Cluster.Shards)
		if err != nil {
			return bad("%v", err)
		}
		if n := len(c.Topics); n > 0 && c.Topics[n-1].Name >= t.Name {
			return bad("topic %q is out of order", t.Name)
		}
		c.Topics = append(c.Topics, t)
	}
	if len(rest) > 0 {
		return bad("%d bytes after the last topic", len(rest))
	}
	return c, nil
}

// cut takes a byte string led by its length in n bytes; rest is nil if it is cut off.
func cut(b []byte, n int) (s, rest []byte) {
	if len(b) < n {
		return nil, nil
	}
	size := 0
	for _, x := range b[:n] {
		size = size<<8 | int(x)
	}
	if b = b[n:]; size > len(b) {
		return nil, nil
	}
	return b[:size:size], b[size:len(b):len(b)]
}

// CopyKey returns the object key of a copy: cat/<session>/<seq>, where a session numbers its
// copies from 1.
func CopyKey(session tiering.SessionID, seq uint64) string {
	return fmt.Sprintf("%s%s/%016x", CopyPrefix, session, seq)
}

// ParseCopyKey reads what CopyKey wrote.
func ParseCopyKey(key string) (session tiering.SessionID, seq uint64, err error) {
	id, number, _ := strings.Cut(strings.TrimPrefix(key, CopyPrefix), "/")
	session, err1 := tiering.ParseSessionID(id)
	seq, err2 := strconv.ParseUint(number, 16, 64)
	if err1 != nil || err2 != nil || CopyKey(session, seq) != key {
		return tiering.SessionID{}, 0, fmt.Errorf("key %q: want %s<session>/<seq>", key, CopyPrefix)
	}
	return session, seq, nil
}

// StoredTopic reads the value of a topic's key, for those who check or rebuild what is stored.
func StoredTopic(name string, value []byte, shards uint32) (Topic, error) {
	return decodeTopic(name, value, shards)
}

// StoredCluster reads the value of a cluster's key.
func StoredCluster(kv metadata.KV) (Cluster, error) { return decodeCluster(kv.Key, kv.Value) }

// Store returns the value of the topic's key in the metadata store, with a new change id, for a
// catalogue that is rebuilt: what was derived from an older value can change nothing then.
func (t *Topic) Store(change [16]byte) ([]byte, error) {
	fresh := *t
	fresh.change = changeID(change)
	return fresh.encode()
}

// Store returns the value of the cluster's key.
func (c Cluster) Store() []byte {
	return fmt.Appendf(nil, `{"version":%d,"id":%q,"shards":%d}`, c.FormatVersion, c.ID, c.Shards)
}

// recovering is the value of the cluster's key while a recovery writes: no agent starts on it.
const recovering = `{"version":0,"id":%q,"shards":0}`

// Recovering returns the value of the cluster's key while a recovery of that cluster writes the
// others: of a version that no agent takes.
func (c Cluster) Recovering() []byte { return fmt.Appendf(nil, recovering, c.ID) }

// RecoveringID returns the id of the cluster whose recovery was begun and not ended, if the
// value of a cluster's key says so.
func RecoveringID(value []byte) (id string, ok bool) {
	var v clusterValue
	if checkVersion(value, 0) != nil || unmarshalStrict(value, &v) != nil {
		return "", false
	}
	return v.ID, true
}
