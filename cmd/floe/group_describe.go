package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// group is one group of floe group describe.
type group struct {
	Group           string        `json:"group"`
	Type            string        `json:"type"`
	ProtocolType    string        `json:"protocolType"`
	State           string        `json:"state"`
	Assignor        string        `json:"assignor"`
	Epoch           *int32        `json:"epoch"`           // nil: a classic group
	AssignmentEpoch *int32        `json:"assignmentEpoch"` // nil: a classic group
	Coordinator     endpoint      `json:"coordinator"`
	Members         []groupMember `json:"members"`
	Offsets         []groupOffset `json:"offsets"`
}

// endpoint is an agent, or a broker.
type endpoint struct {
	ID   int32  `json:"id"`
	Host string `json:"host"`
	Port int32  `json:"port"`
}

func (n endpoint) String() string {
	return fmt.Sprintf("%d (%s)", n.ID, net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port))))
}

// groupMember is one member of a group.
type groupMember struct {
	Member     string            `json:"member"`
	Instance   *string           `json:"instance"` // group.instance.id
	ClientID   string            `json:"clientId"`
	Host       string            `json:"host"`
	Epoch      *int32            `json:"epoch"` // nil: a classic group's
	Topics     []string          `json:"topics"`
	Regex      *string           `json:"regex"` // nil: none
	Assignment []topicPartitions `json:"assignment"`
	Target     []topicPartitions `json:"target"` // what it is to have; nil: a classic group's
}

// groupOffset is what a group knows of one partition, committed or assigned.
type groupOffset struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Committed *int64  `json:"committed"` // nil: none
	Metadata  string  `json:"metadata"`
	LogEnd    *int64  `json:"logEnd"` // nil: no such partition any more
	Lag       *int64  `json:"lag"`
	Member    *string `json:"member"`
	ClientID  *string `json:"clientId"`
	Host      *string `json:"host"`
}

func groupDescribeCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe GROUP...",
		Short: "Show the committed offsets and the lag of groups, their members or their state",
		Long: "Show the committed offsets and the lag of groups, their members or their state.\n" +
			"With --json, all three are there.",
		Example: "  floe group describe orders\n  floe group describe orders --members",
		Args:    someArgs("GROUP"),
	}
	members := cmd.Flags().Bool("members", false, "the members and what is assigned to them")
	state := cmd.Flags().Bool("state", false, "state, assignor and coordinator")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		asJSON := cmd.Flags().Changed("json")
		switch {
		case *members && *state:
			return usageError{errors.New("--state: does not go with --members (give one of them)")}
		case asJSON && *members:
			return usageError{errors.New("--members: does not go with --json (leave it out: members are there)")}
		case asJSON && *state:
			return usageError{errors.New("--state: does not go with --json (leave it out: the state is there)")}
		}
		return nil
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, args []string) error {
		groups, failed := r.groupsByName(ctx, args)
		if failed != nil && len(groups) == 0 {
			return failed
		}
		if !*members && !*state {
			for i := range groups {
				failed = errors.Join(failed, r.addOffsets(ctx, &groups[i]))
			}
		}
		return errors.Join(r.print(groupsShape{groups}, func(w io.Writer) error {
			switch {
			case *members:
				return printMembers(w, groups)
			case *state:
				return printStates(w, groups)
			}
			return printOffsets(w, groups)
		}), failed)
	})
}

type groupsShape struct {
	Groups []group `json:"groups"`
}

// groupsByName describes groups in the order of their names; those that there are not
// make the error.
func (r *remote) groupsByName(ctx context.Context, names []string) (groups []group, failed error) {
	described, err := r.describeGroups(ctx, names)
	failed = err
	groups = []group{}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if g, ok := described[name]; ok {
			groups = append(groups, g)
		} else if err == nil {
			failed = errors.Join(failed, groupRefusal(name, kerr.GroupIDNotFound))
		}
	}
	return groups, failed
}

// describeGroups describes the groups that there are, without their offsets. A name is
// looked for among the groups of the consumer protocol first, then among the classic
// ones, because no other answer tells for certain which it is.
func (r *remote) describeGroups(ctx context.Context, names []string) (map[string]group, error) {
	out := map[string]group{}
	rest := names
	if len(names) > 0 && r.serves(kmsg.NewPtrConsumerGroupDescribeRequest(), 0) {
		rest = nil
		described, err := r.admin.DescribeConsumerGroups(ctx, names...)
		if err != nil {
			return out, fmt.Errorf("describing groups: %w", told(err))
		}
		for _, name := range names {
			switch d, ok := described[name]; {
			case ok && d.Err == nil:
				out[name] = consumerGroup(d)
			case !ok, errors.Is(d.Err, kerr.GroupIDNotFound), errors.Is(d.Err, kerr.UnsupportedVersion):
				rest = append(rest, name)
			default:
				return out, groupRefusal(name, d.Err)
			}
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	described, err := r.admin.DescribeGroups(ctx, rest...)
	if err != nil {
		return out, fmt.Errorf("describing groups: %w", told(err))
	}
	for _, d := range described.Sorted() {
		switch {
		case errors.Is(d.Err, kerr.GroupIDNotFound), d.Err == nil && d.State == "Dead":
		case d.Err != nil:
			return out, groupRefusal(d.Group, d.Err)
		default:
			out[d.Group] = classicGroup(d)
		}
	}
	return out, nil
}

func consumerGroup(d kadm.DescribedConsumerGroup) group {
	g := group{Group: d.Group, Type: consumerType, ProtocolType: "consumer", State: d.State, Assignor: d.AssignorName, Epoch: &d.Epoch,
		AssignmentEpoch: &d.AssignmentEpoch, Coordinator: endpointOf(d.Coordinator), Members: []groupMember{}, Offsets: []groupOffset{}}
	for _, m := range d.Members {
		g.Members = append(g.Members, groupMember{Member: m.MemberID, Instance: m.InstanceID, ClientID: m.ClientID, Host: m.ClientHost,
			Epoch: &m.MemberEpoch, Topics: append([]string{}, m.SubscribedTopics...), Regex: unlessEmpty(m.SubscribedTopicRegex),
			Assignment: sorted(m.Assignment), Target: sorted(m.TargetAssignment)})
	}
	return g
}

// unlessEmpty makes nil of the empty strings that some clusters send for nothing.
func unlessEmpty(s *string) *string {
	if s == nil || *s == "" {
		return nil
	}
	return s
}

func classicGroup(d kadm.DescribedGroup) group {
	g := group{Group: d.Group, Type: classicType, ProtocolType: d.ProtocolType, State: d.State, Assignor: d.Protocol,
		Coordinator: endpointOf(d.Coordinator), Members: []groupMember{}, Offsets: []groupOffset{}}
	for _, m := range d.Members {
		member := groupMember{Member: m.MemberID, Instance: m.InstanceID, ClientID: m.ClientID, Host: m.ClientHost, Topics: []string{}}
		// Other protocols, such as Connect's, share other things than partitions.
		assigned := kadm.TopicsSet{}
		if a, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range a.Topics {
				assigned.Add(t.Topic, t.Partitions...)
			}
		}
		if j, ok := m.Join.AsConsumer(); ok {
			member.Topics = append(member.Topics, j.Topics...)
		}
		member.Assignment = sorted(assigned)
		g.Members = append(g.Members, member)
	}
	return g
}

func endpointOf(b kadm.BrokerDetail) endpoint { return endpoint{b.NodeID, b.Host, b.Port} }

// addOffsets fills in the offsets of a group.
func (r *remote) addOffsets(ctx context.Context, g *group) error {
	committed, err := r.committed(ctx, g.Group)
	if err != nil {
		return err
	}
	topics := map[string]bool{}
	for t := range committed {
		topics[t] = true
	}
	for _, m := range g.Members {
		for _, t := range m.Assignment {
			topics[t.Topic] = true
		}
	}
	var ends kadm.ListedOffsets
	if len(topics) > 0 { // none would stand for all
		names := make([]string, 0, len(topics))
		for t := range topics {
			names = append(names, t)
		}
		if ends, err = r.admin.ListEndOffsets(ctx, names...); err != nil {
			return fmt.Errorf("asking for the ends of logs: %w", told(err))
		}
	}
	g.Offsets = groupOffsets(committed, ends, g.Members)
	var failed error
	ends.Each(func(l kadm.ListedOffset) {
		if l.Err != nil && failed == nil && !errors.Is(l.Err, kerr.UnknownTopicOrPartition) {
			failed = fmt.Errorf("asking for the end of %s:%d: %w", l.Topic, l.Partition, l.Err)
		}
	})
	return failed
}

// committed returns a group's committed offsets.
func (r *remote) committed(ctx context.Context, group string) (kadm.OffsetResponses, error) {
	committed, err := r.admin.FetchOffsets(ctx, group)
	if err != nil {
		return nil, groupRefusal(group, err)
	}
	if err := committed.Error(); err != nil {
		return nil, groupRefusal(group, err)
	}
	committed.DeleteFunc(func(o kadm.OffsetResponse) bool { return o.At < 0 })
	return committed, nil
}

// groupOffsets combines what is committed with the logs' ends and the owners: one row for
// each partition that is committed or assigned, in order.
func groupOffsets(committed kadm.OffsetResponses, ends kadm.ListedOffsets, members []groupMember) []groupOffset {
	rows := map[partition]*groupOffset{}
	row := func(topic string, id int32) *groupOffset {
		key := partition{topic, id}
		if rows[key] == nil {
			rows[key] = &groupOffset{Topic: topic, Partition: id}
			if l, ok := ends.Lookup(topic, id); ok && l.Err == nil && l.Offset >= 0 {
				rows[key].LogEnd = &l.Offset
			}
		}
		return rows[key]
	}
	committed.Each(func(o kadm.OffsetResponse) {
		r := row(o.Topic, o.Partition)
		r.Committed, r.Metadata = &o.At, o.Metadata
		if r.LogEnd != nil {
			// The end was asked for later, but by another node: it may be older.
			lag := max(0, *r.LogEnd-o.At)
			r.Lag = &lag
		}
	})
	for i := range members {
		m := &members[i]
		for _, t := range m.Assignment {
			for _, id := range t.Partitions {
				r := row(t.Topic, id)
				r.Member, r.ClientID, r.Host = &m.Member, &m.ClientID, &m.Host
			}
		}
	}
	out := make([]groupOffset, 0, len(rows))
	for _, r := range rows {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b groupOffset) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

func printOffsets(w io.Writer, groups []group) error {
	t := newTable("GROUP", "TOPIC", "PARTITION", "COMMITTED", "LOG END", "LAG", "MEMBER", "CLIENT ID", "HOST")
	for _, g := range groups {
		for _, o := range g.Offsets {
			t.add(g.Group, o.Topic, o.Partition, o.Committed, o.LogEnd, o.Lag, o.Member, o.ClientID, o.Host)
		}
	}
	return t.print(w, "no committed offsets and no assigned partitions")
}

func printMembers(w io.Writer, groups []group) error {
	t := newTable("GROUP", "MEMBER", "INSTANCE", "CLIENT ID", "HOST", "EPOCH", "PARTITIONS", "ASSIGNMENT", "TARGET")
	for _, g := range groups {
		for _, m := range g.Members {
			assignment, n := joined(m.Assignment)
			target, _ := joined(m.Target)
			if target == assignment {
				target = "" // it has what it is to have
			}
			t.add(g.Group, m.Member, m.Instance, m.ClientID, m.Host, m.Epoch, n, assignment, target)
		}
	}
	return t.print(w, "no members")
}

func printStates(w io.Writer, groups []group) error {
	t := newTable("GROUP", "TYPE", "PROTOCOL", "STATE", "ASSIGNOR", "EPOCH", "MEMBERS", "COORDINATOR")
	for _, g := range groups {
		t.add(g.Group, g.Type, g.ProtocolType, g.State, g.Assignor, g.Epoch, len(g.Members), g.Coordinator)
	}
	return t.print(w, "no groups")
}
