//go:build planted

package planted

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

func onGroups(wrap func(*host, kafka.Groups) kafka.Groups) func() bug {
	return func() bug {
		return bug{clients: func(h *host, parts *kafka.Parts) { parts.Groups = wrap(h, parts.Groups) }}
	}
}

func groupBugs() map[string]func() bug {
	return map[string]func() bug{
		"offsets-from-memory": onGroups(func(_ *host, g kafka.Groups) kafka.Groups {
			return &remembers{Groups: g, answers: map[groupPartition]pastOffset{}}
		}),
		"offset-unknown": onGroups(func(h *host, g kafka.Groups) kafka.Groups { return &forgets{g, h} }),
		"one-for-all": onGroups(func(_ *host, g kafka.Groups) kafka.Groups {
			return &alike{Groups: g, given: map[string]assignment{}}
		}),
	}
}

type groupPartition struct {
	group string
	part  tiering.TopicPartition
}

type pastOffset struct {
	offset kafka.FetchedOffset
	until  time.Time
}

// remembers answers questions for committed offsets from memory.
type remembers struct {
	kafka.Groups

	mu      sync.Mutex // guards the following
	answers map[groupPartition]pastOffset
}

func (r *remembers) Fetch(ctx context.Context, from kafka.From, group string, m kafka.GroupMember, partitions []tiering.TopicPartition, all, stable bool) ([]kafka.FetchedOffset, int16, error) {
	got, code, err := r.Groups.Fetch(ctx, from, group, m, partitions, all, stable)
	if err != nil || code != 0 {
		return got, code, err
	}
	got = slices.Clone(got)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range got {
		at := groupPartition{group, o.Partition}
		if past, ok := r.answers[at]; ok && time.Now().Before(past.until) {
			got[i] = past.offset
		} else if o.Code == 0 {
			r.answers[at] = pastOffset{o, time.Now().Add(5 * time.Second)}
		}
	}
	return got, code, nil
}

// forgets says now and then that there is no offset.
type forgets struct {
	kafka.Groups
	h *host
}

func (f *forgets) Fetch(ctx context.Context, from kafka.From, group string, m kafka.GroupMember, partitions []tiering.TopicPartition, all, stable bool) ([]kafka.FetchedOffset, int16, error) {
	got, code, err := f.Groups.Fetch(ctx, from, group, m, partitions, all, stable)
	if len(got) > 0 && f.h.oneIn(20) {
		got = slices.Clone(got)
		got[0].Offset, got[0].Epoch = -1, -1
	}
	return got, code, err
}

type assignment struct {
	generation int32
	bytes      []byte
}

// alike gives all members of a generation what it gave the first one that asked.
type alike struct {
	kafka.Groups

	mu    sync.Mutex // guards the following
	given map[string]assignment
}

func (a *alike) Ask(ctx context.Context, from kafka.From, group string, req kmsg.Request) (kmsg.Response, error) {
	resp, err := a.Groups.Ask(ctx, from, group, req)
	asked, ok := req.(*kmsg.SyncGroupRequest)
	got, synced := resp.(*kmsg.SyncGroupResponse)
	if !ok || !synced || err != nil || got.ErrorCode != 0 {
		return resp, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if first, ok := a.given[group]; ok && first.generation == asked.Generation {
		again := *got
		again.MemberAssignment = first.bytes
		return &again, nil
	}
	a.given[group] = assignment{asked.Generation, got.MemberAssignment}
	return resp, nil
}
