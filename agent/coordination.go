package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// groups translates what the handlers ask of consumer groups.
type groups struct{ q *questions }

// transactions translates what the handlers ask of transactions.
type transactions struct{ q *questions }

func (q *questions) shardOf(name string) tiering.ShardID {
	return tiering.ShardOfName(name, q.set.NumShards())
}

// askHere asks the coordinator of a name on this agent.
func askHere[Out any](ctx context.Context, s *coordinator.Shell, id tiering.ShardID, from kafka.From, body any) (out Out, err error) {
	v, err := s.Ask(ctx, id, coordinator.Client{ID: from.ClientID, Host: from.Host}, body)
	switch {
	case errors.Is(err, coordinator.ErrNotCoordinator), errors.Is(err, metadata.ErrFenced):
		return out, kafka.ErrNotCoordinator
	case err != nil:
		return out, err
	}
	return v.(Out), nil
}

// askAll asks every coordinator on this agent. It reports false while a shard is led by nobody,
// or has just moved: clients ask all agents and put the answers together, and what none of
// them lists they take for what there is not (an open transaction for a hanging one).
func (q *questions) askAll(ctx context.Context, s *coordinator.Shell, from kafka.From, req kmsg.Request) (all []any, ok bool, err error) {
	for i := range q.set.NumShards() {
		if !q.set.Leadership(tiering.ShardID(i)).Live {
			return nil, false, nil
		}
	}
	all, err = s.AskAll(ctx, coordinator.Client{ID: from.ClientID, Host: from.Host}, req)
	switch {
	case err == nil:
		return all, true, nil
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	}
	return nil, false, nil
}

// Ask implements kafka.Groups.
func (g groups) Ask(ctx context.Context, from kafka.From, name string, req kmsg.Request) (kmsg.Response, error) {
	return askHere[kmsg.Response](ctx, g.q.groups, g.q.shardOf(name), from, req)
}

// List implements kafka.Groups.
func (g groups) List(ctx context.Context, from kafka.From, req *kmsg.ListGroupsRequest) (*kmsg.ListGroupsResponse, error) {
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	all, ok, err := g.q.askAll(ctx, g.q.groups, from, req)
	if !ok {
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	}
	for _, v := range all {
		part := v.(*kmsg.ListGroupsResponse)
		if part.ErrorCode != 0 {
			return part, nil
		}
		resp.Groups = append(resp.Groups, part.Groups...)
	}
	return resp, err
}

func groupMember(m kafka.GroupMember) group.Member {
	return group.Member{ID: m.ID, Instance: m.Instance, Epoch: m.Epoch, Version: m.Version}
}

// Commit implements kafka.Groups.
func (g groups) Commit(ctx context.Context, from kafka.From, name string, m kafka.GroupMember, tx shard.Transaction, offsets []shard.GroupOffset) (int16, error) {
	return askHere[int16](ctx, g.q.groups, g.q.shardOf(name), from, group.Commit{Group: name, Member: groupMember(m), Transaction: tx, Offsets: offsets})
}

// Fetch implements kafka.Groups.
func (g groups) Fetch(ctx context.Context, from kafka.From, name string, m kafka.GroupMember, partitions []tiering.TopicPartition, all, stable bool) ([]kafka.FetchedOffset, int16, error) {
	got, err := askHere[group.Fetched](ctx, g.q.groups, g.q.shardOf(name), from, group.Fetch{Group: name, Member: groupMember(m), Partitions: partitions, All: all, Stable: stable})
	if err != nil {
		return nil, 0, err
	}
	out := make([]kafka.FetchedOffset, len(got.Offsets))
	for i, o := range got.Offsets {
		out[i] = kafka.FetchedOffset(o)
	}
	return out, got.Code, nil
}

// Delete implements kafka.Groups.
func (g groups) Delete(ctx context.Context, name string, partitions []tiering.TopicPartition) ([]int16, int16, error) {
	got, err := askHere[group.Deleted](ctx, g.q.groups, g.q.shardOf(name), kafka.From{}, group.Delete{Group: name, Partitions: partitions})
	return got.Codes, got.Code, err
}

// Configs implements kafka.Groups.
func (g groups) Configs(ctx context.Context, name string) (map[string]string, error) {
	return configsQuestion.ask(ctx, g.q, g.q.shardOf(name), group.Configs{Group: name})
}

// AlterConfigs implements kafka.Groups.
func (g groups) AlterConfigs(ctx context.Context, name string, alter map[string]*string) error {
	refused, err := alterConfigsQuestion.ask(ctx, g.q, g.q.shardOf(name), group.AlterConfigs{Group: name, Alter: alter})
	if err == nil && refused != "" {
		err = fmt.Errorf("%s: %w", refused, kerr.InvalidConfig)
	}
	return err
}

// Ask implements kafka.Transactions.
func (t transactions) Ask(ctx context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	return askHere[kmsg.Response](ctx, t.q.txns, t.q.shardOf(id), from, req)
}

// List implements kafka.Transactions.
func (t transactions) List(ctx context.Context, from kafka.From, req *kmsg.ListTransactionsRequest) (*kmsg.ListTransactionsResponse, error) {
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	all, ok, err := t.q.askAll(ctx, t.q.txns, from, req)
	if !ok {
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	}
	for _, v := range all {
		part := v.(*kmsg.ListTransactionsResponse)
		if part.ErrorCode != 0 {
			return part, nil
		}
		resp.TransactionStates = append(resp.TransactionStates, part.TransactionStates...)
		for _, s := range part.UnknownStateFilters {
			if !slices.Contains(resp.UnknownStateFilters, s) {
				resp.UnknownStateFilters = append(resp.UnknownStateFilters, s)
			}
		}
	}
	return resp, err
}

// Enlist implements kafka.Transactions.
func (t transactions) Enlist(ctx context.Context, e kafka.Enlistment) (kafka.Enlisted, error) {
	in := txn.Enlist{ID: e.ID, ProducerID: e.ProducerID, Epoch: e.Epoch, Add: e.Add, Version: e.Version}
	for _, p := range e.Partitions {
		in.Partitions = append(in.Partitions, txn.Partition{TopicPartition: p.TopicPartition, Shard: p.Shard})
	}
	for _, name := range e.Groups {
		in.Groups = append(in.Groups, txn.Group{Name: name, Shard: t.q.shardOf(name)})
	}
	var out txn.Enlisted
	var err error
	if id := t.q.shardOf(e.ID); e.Here {
		out, err = askHere[txn.Enlisted](ctx, t.q.txns, id, kafka.From{}, in)
	} else {
		out, err = enlistQuestion.ask(ctx, t.q, id, in)
	}
	return kafka.Enlisted{Code: out.Code, Codes: out.Codes, Number: out.Number}, err
}

// Mark implements kafka.Transactions.
func (t transactions) Mark(ctx context.Context, markings []kafka.Marking) []int16 {
	codes := make([]int16, len(markings))
	byShard := map[tiering.ShardID][]int{}
	for i, m := range markings {
		byShard[m.Partition.Shard] = append(byShard[m.Partition.Shard], i)
	}
	var wg sync.WaitGroup
	for id, of := range byShard {
		wg.Go(func() {
			markers := make([]shard.Marker, len(of))
			for n, i := range of {
				m := &markings[i]
				markers[n] = shard.Marker{
					Partition: m.Partition.TopicPartition, Commit: m.Commit, Coordinator: m.Coordinator,
					Transaction: shard.Transaction{ProducerID: m.ProducerID, Epoch: m.Epoch},
				}
			}
			got, err := markQuestion.ask(ctx, t.q, id, markers)
			for n, i := range of {
				if err != nil || n >= len(got) {
					codes[i] = kerr.NotLeaderForPartition.Code
				} else {
					codes[i] = got[n]
				}
			}
		})
	}
	wg.Wait()
	return codes
}
