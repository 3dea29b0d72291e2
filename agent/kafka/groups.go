package kafka

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What the handlers of consumer groups have in common. A group's coordinator is the leader of
// its shard (tiering.ShardOfName). Handlers check what needs no group, find topics, and put
// what the coordinator says, or that there is none here, in the place where the API's clients
// look for it.

// groupOperations are the operations that a group knows; see topicOperations.
const groupOperations int32 = opRead | opDelete | opDescribe | opDescribeConfigs | opAlterConfigs

// askGroup asks a group's coordinator, whose answer is an R. The group must have a name: that
// of commits alone may be empty, as it was before groups had coordinators.
func askGroup[R kmsg.Response](ctx context.Context, h *Handler, from From, group string, req kmsg.Request) (R, error) {
	if group == "" {
		var none R
		return none, refuse(kerr.InvalidGroupID, "a group's id must not be empty")
	}
	return askAnyGroup[R](ctx, h, from, group, req)
}

// maxName bounds the names that clients make up and coordinators keep, in bytes. It is the
// length of Kafka's strings, whatever a compact string's own length may say. More would not
// fit into a journal record, and the coordinator would have to start over for it.
const maxName = math.MaxInt16

var errLongGroup = refuse(kerr.InvalidGroupID, "a group's id must not be longer than %d bytes", maxName)

// tooLong reports whether one of the names is longer than maxName.
func tooLong(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(name) > maxName })
}

// askAnyGroup is askGroup for groups of any name.
func askAnyGroup[R kmsg.Response](ctx context.Context, h *Handler, from From, group string, req kmsg.Request) (R, error) {
	var none R
	if tooLong(group) {
		return none, errLongGroup
	}
	got, err := h.Groups.Ask(ctx, from, group, req)
	if err != nil {
		return none, err
	}
	resp, ok := got.(R)
	if !ok {
		return none, fmt.Errorf("the coordinator answered a %T with a %T", req, got)
	}
	resp.SetVersion(req.GetVersion())
	return resp, nil
}

// maxDescribed bounds the descriptions in one answer, in bytes. When they are more, the groups
// that are left are answered COORDINATOR_LOAD_IN_PROGRESS, and admin clients ask again for
// them alone. Less: more round trips for whoever describes a whole cluster. More: a small
// request makes an agent hold that much.
const maxDescribed = 16 << 20

// perGroup is how a request about many groups is asked group by group.
type perGroup[R kmsg.Response, G any] struct {
	named   bool                            // groups must have a name
	request func(group string) kmsg.Request // about one group
	groups  func(R) []G
	failed  func(group string, err error) G
	size    func(*G) int
}

// ask asks about each group; the answers are in their order.
func (p perGroup[R, G]) ask(ctx context.Context, h *Handler, from From, groups []string) []G {
	out := make([]G, len(groups))
	var held atomic.Int64
	each(len(groups), func(i int) {
		if held.Load() > maxDescribed {
			out[i] = p.failed(groups[i], kerr.CoordinatorLoadInProgress)
			return
		}
		ask := askAnyGroup[R]
		if p.named {
			ask = askGroup[R]
		}
		resp, err := ask(ctx, h, from, groups[i], p.request(groups[i]))
		if err == nil {
			got := p.groups(resp)
			if len(got) == 1 {
				out[i] = got[0]
				held.Add(int64(p.size(&out[i])))
				return
			}
			err = fmt.Errorf("the coordinator answered for %d groups, not one", len(got))
		}
		out[i] = p.failed(groups[i], err)
	})
	return out
}

// coordinatorMessage is message for what coordinatorCode is told to clients.
func coordinatorMessage(err error) *string {
	if c := coordinatorCode(err); c != code(err) {
		return codeText(c)
	}
	return message(err)
}
