package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

// selection is a topic with some of its partitions, or all of them.
type selection struct {
	topic      string
	partitions []int32 // nil: all
}

// parseSelection parses TOPIC[:P,P...] as it is given to a flag.
func parseSelection(flag, text string) (selection, error) {
	topic, list, some := strings.Cut(text, ":")
	s := selection{topic: topic}
	if topic == "" {
		return s, usageError{fmt.Errorf("%s: %q names no topic (write TOPIC, or TOPIC:0,1)", flag, text)}
	}
	if !some {
		return s, nil
	}
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(word, 10, 31)
		if err != nil {
			return s, usageError{fmt.Errorf("%s: %q of %q is not a partition (write TOPIC, or TOPIC:0,1)", flag, word, text)}
		}
		if slices.Contains(s.partitions, int32(n)) {
			return s, usageError{fmt.Errorf("%s: %q names partition %d twice (remove one)", flag, text, n)}
		}
		s.partitions = append(s.partitions, int32(n))
	}
	return s, nil
}

// parseSelections parses all values of a flag; each topic may be named once.
func parseSelections(flag string, texts []string) ([]selection, error) {
	var all []selection
	for _, text := range texts {
		s, err := parseSelection(flag, text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(o selection) bool { return o.topic == s.topic }) {
			return nil, usageError{fmt.Errorf("%s: topic %s is named twice (write %s:0,1 for several partitions)", flag, s.topic, s.topic)}
		}
		all = append(all, s)
	}
	return all, nil
}

// among finds the selected partitions among those that there are, in order. Whatever
// there is not is an error that says so.
func among(selected []selection, there kadm.TopicsSet) ([]partition, error) {
	var out []partition
	for _, s := range selected {
		known, ok := there[s.topic]
		if !ok {
			return nil, fmt.Errorf("--topic: there is no topic %s", s.topic)
		}
		ids := s.partitions
		if ids == nil {
			for id := range known {
				ids = append(ids, id)
			}
		}
		for _, id := range slices.Sorted(slices.Values(ids)) {
			if _, ok := known[id]; !ok {
				return nil, fmt.Errorf("--topic: topic %s has no partition %d, only %s from 0 on", s.topic, id, count(len(known), "partition"))
			}
			out = append(out, partition{s.topic, id})
		}
	}
	return out, nil
}

// oneOf returns the known words that were given, as the protocol spells them; case does
// not count.
func oneOf(flag string, given, known []string) ([]string, error) {
	var out []string
	for _, word := range given {
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, word) })
		if i < 0 {
			return nil, usageError{fmt.Errorf("%s: %q is not known (one of %s)", flag, word, strings.Join(known, ", "))}
		}
		out = append(out, known[i])
	}
	return out, nil
}

// someArgs demands one or more arguments.
func someArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError{fmt.Errorf("%s: wants %s, one or more (%s --help tells more)", cmd.CommandPath(), name, cmd.CommandPath())}
		}
		return nil
	}
}
