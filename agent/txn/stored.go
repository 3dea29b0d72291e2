package txn

import (
	"fmt"

	"github.com/floelog/floe/metadata/shard"
)

// Open returns what the rows in the states of all shards say of the transactions that are open
// or being ended: the number of the one that a batch with a producer's id and epoch belongs to;
// false if there is none. For a recovery that finds such batches.
func Open(states []*shard.State) func(producer int64, epoch int16) (number int64, ok bool) {
	type identity struct {
		producer int64
		epoch    int16
	}
	open := map[identity]int64{}
	for _, s := range states {
		for _, name := range s.Names(shard.Transactions) {
			r, err := decodeRow(s.Row(shard.Transactions, name, rowKey))
			if err != nil || r.status != ongoing && !r.status.prepared() {
				continue
			}
			epoch := r.epoch
			if r.status.prepared() && r.version == 2 {
				epoch-- // the markers' is above that of the batches
			}
			open[identity{r.producer, epoch}] = r.number
		}
	}
	return func(producer int64, epoch int16) (int64, bool) {
		number, ok := open[identity{producer, epoch}]
		return number, ok
	}
}

// CheckRow reports why a row of a transactional id cannot be read.
func CheckRow(key string, value []byte) error {
	if key != rowKey {
		return fmt.Errorf("%w: its key is %q", errRow, key)
	}
	_, err := decodeRow(value)
	return err
}
