package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// catalogues is what tells the names of topics.
type catalogues struct {
	newest catalogue.Copy
	older  []catalogue.Copy
	// late are copies that were stored after the newest and know less: by an agent that had lost the
	// metadata store, or, which cannot be told from it, by one on a store that went back.
	late    []catalogue.Copy
	planned bool // newest is what a recovery that was cut short was about to write
}

// knowsMore reports whether of two copies the one that was stored earlier is the newer one: an
// agent stores what it knows when its life ends, however late. Within one metadata store
// revisions tell; one that a recovery has filled begins them anew, and is known by its producer ids.
func knowsMore(earlier, later catalogue.Copy) bool {
	return earlier.Revision > later.Revision && later.ProducerID-earlier.ProducerID < producerIDJump
}

// freeze is the value of the key that stops deletion, as a recovery writes it.
type freeze struct {
	By        string `json:"by"`
	Since     int64  `json:"since_ms"`
	Catalogue string `json:"catalogue"` // object key of the topics that it is about to write
}

// planned returns the object key of the topics that a recovery was about to write when it was
// cut short: those in the metadata store may be some of them. Empty: none was cut short.
func (p *Plan) planned(ctx context.Context) (string, error) {
	if _, cutShort := catalogue.RecoveringID(p.clusterKey.Value); !cutShort {
		return "", nil
	}
	kvs, _, err := p.cfg.Meta.Get(ctx, p.keys.GCFreeze())
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", p.keys.GCFreeze(), err)
	}
	var f freeze
	if json.Unmarshal(kvs[0].Value, &f) != nil {
		return "", nil // another's
	}
	return f.Catalogue, nil
}

// catalogue finds the newest copy of the catalogue, in the bucket or in the metadata store.
func (p *Plan) catalogue(ctx context.Context, b *bucket) (*catalogues, error) {
	planned, err := p.planned(ctx)
	if err != nil {
		return nil, err
	}
	var found catalogues
	var copies []catalogue.Copy // newest first
	newest := 0
	for _, o := range b.copies {
		data, err := p.cfg.Objects.GetRange(ctx, o.Key, 0, o.Size)
		if err != nil && !unreadable(err) {
			return nil, fmt.Errorf("reading %s: %w", o.Key, err)
		}
		var c catalogue.Copy
		if err == nil {
			c, err = catalogue.DecodeCopy(data)
		}
		if err != nil {
			p.Report.problem("%s cannot be used: %v", o.Key, err)
			continue
		}
		copies = append(copies, c)
		certain := o.Key == planned && planned != ""
		if i := len(copies) - 1; i == 0 || certain || !found.planned && knowsMore(c, copies[newest]) {
			newest, found.planned = i, certain
			p.Report.Catalogue, p.Report.CatalogueTime = o.Key, o.Modified.UnixMilli()
		}
	}
	if len(copies) == 0 {
		return nil, fmt.Errorf("%w in the bucket (keys %s*)", ErrNoCatalogue, catalogue.CopyPrefix)
	}
	found.late, found.newest, found.older = copies[:newest], copies[newest], copies[newest+1:]
	p.cluster = found.newest.Cluster
	id, err := tiering.ParseTopicID(p.cluster.ID)
	if err != nil {
		return nil, fmt.Errorf("cluster id: %w", err)
	}
	p.id, p.Report.ClusterID = id, p.cluster.ID
	return &found, p.restored(ctx, &found)
}

// restored takes in what a restored metadata store says of the cluster and its topics.
func (p *Plan) restored(ctx context.Context, found *catalogues) error {
	if id, cutShort := catalogue.RecoveringID(p.clusterKey.Value); p.clusterKey.Exists() && (!cutShort || id != p.cluster.ID) {
		c, err := catalogue.StoredCluster(p.clusterKey)
		if cutShort {
			c, err = catalogue.Cluster{ID: id}, nil
		}
		if err != nil {
			return err
		}
		if c != p.cluster {
			return fmt.Errorf("%w: the metadata store has cluster %s with %d shards, the bucket %s with %d", ErrOtherCluster, c.ID, c.Shards, p.cluster.ID, p.cluster.Shards)
		}
	}
	newest := int64(0)
	var topics []catalogue.Topic
	prefix := p.keys.Topics()
	for from, more := prefix, true; more; {
		page, err := p.cfg.Meta.Range(ctx, from, metadata.PrefixEnd(prefix), 0, listPage)
		if err != nil {
			return fmt.Errorf("reading the topics: %w", err)
		}
		for _, kv := range page.KVs {
			from, newest = kv.Key+"\x00", max(newest, kv.Revision)
			t, err := catalogue.StoredTopic(strings.TrimPrefix(kv.Key, prefix), kv.Value, p.cluster.Shards)
			if err != nil {
				return err
			}
			topics = append(topics, t)
			p.Report.replaced = append(p.Report.replaced, kv.Key)
		}
		more = page.More
	}
	producerID, err := p.restoredProducerID(ctx)
	if err != nil {
		return err
	}
	p.revision = max(newest, found.newest.Revision)
	restored := catalogue.Copy{Topics: topics, ProducerID: producerID}
	if newest > found.newest.Revision && len(p.Report.replaced) > 0 && !found.planned {
		p.Report.Catalogue = "the metadata store"
		found.older = append(found.older, found.newest)
		restored.Cluster = p.cluster
		found.newest = restored
	} else {
		found.older = append(found.older, restored)
	}
	return nil
}

// restoredProducerID returns the next producer id by the metadata store; 0 if it knows none.
func (p *Plan) restoredProducerID(ctx context.Context) (int64, error) {
	kvs, _, err := p.cfg.Meta.Get(ctx, p.keys.ProducerIDs())
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", p.keys.ProducerIDs(), err)
	}
	if !kvs[0].Exists() {
		return 0, nil
	}
	id, err := strconv.ParseInt(string(kvs[0].Value), 10, 64)
	if err != nil {
		p.Report.problem("%s cannot be used: %v", p.keys.ProducerIDs(), err)
		return 0, nil
	}
	return id, nil
}

// storeTopics stores the topics that are about to be written, so that a recovery that is cut short
// among them goes on with the same. Of the bucket's copies it is the newest only as long as the
// metadata store names it.
func (p *Plan) storeTopics(ctx context.Context) (key string, err error) {
	c := catalogue.Copy{Cluster: p.cluster, CreatedAt: p.now, Revision: p.revision, ProducerID: p.seenProducerID, Topics: p.topics}
	b, err := c.Encode()
	if err != nil {
		return "", err
	}
	key = catalogue.CopyKey(p.session, 1)
	if err := p.cfg.Objects.Put(ctx, key, objstore.Body{b}); err != nil {
		return "", fmt.Errorf("storing %s: %w", key, err)
	}
	return key, nil
}
