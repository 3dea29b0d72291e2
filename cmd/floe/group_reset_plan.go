package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// resetFlags are the flags that say where a group is to go on.
type resetFlags struct {
	earliest, latest bool
	offset, shift    int64
	time             string
	flags            *pflag.FlagSet
}

// The flags of which exactly one is given.
var resetNames = []string{"to-earliest", "to-latest", "to-offset", "to-time", "shift-by"}

func addResetFlags(flags *pflag.FlagSet) *resetFlags {
	f := &resetFlags{flags: flags}
	flags.BoolVar(&f.earliest, "to-earliest", false, "to the first record that there is")
	flags.BoolVar(&f.latest, "to-latest", false, "to the end of the log")
	flags.Int64Var(&f.offset, "to-offset", 0, "to this `offset`")
	flags.StringVar(&f.time, "to-time", "", "to the first record of this `time` or later: RFC 3339, or how long ago, such as 90m")
	flags.Int64Var(&f.shift, "shift-by", 0, "by this `number` of records on, or back if it is negative")
	return f
}

// target checks the flags against each other and returns what they say.
func (f *resetFlags) target(now time.Time) (resetTarget, error) {
	var given []string
	for _, name := range resetNames {
		if f.flags.Changed(name) {
			given = append(given, "--"+name)
		}
	}
	const all = "--to-earliest, --to-latest, --to-offset, --to-time, --shift-by"
	switch {
	case len(given) == 0:
		return resetTarget{}, usageError{errors.New("--to-earliest: nothing says where to reset to (give one of " + all + ")")}
	case len(given) > 1:
		return resetTarget{}, usageError{fmt.Errorf("%s: does not go with %s (give one of %s)", given[1], given[0], all)}
	}
	t := resetTarget{flag: given[0]}
	var err error
	switch given[0] {
	case "--to-offset":
		if t.number = f.offset; f.offset < 0 {
			err = usageError{fmt.Errorf("--to-offset: %d is below 0 (the end of the log is --to-latest)", f.offset)}
		}
	case "--shift-by":
		if t.number = f.shift; f.shift == 0 {
			err = usageError{errors.New("--shift-by: 0 changes nothing (give a number such as 10 or -10)")}
		}
	case "--to-time":
		t.number, err = parseTime(f.time, now)
	}
	return t, err
}

// parseTime returns milliseconds since 1970 for a time, or a time ago.
func parseTime(text string, now time.Time) (int64, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		if ago < 0 {
			return 0, usageError{fmt.Errorf("--to-time: %s lies in the future (write how long ago, such as 90m)", text)}
		}
		return now.Add(-ago).UnixMilli(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, usageError{fmt.Errorf("--to-time: %q is no time (write 2026-01-31T15:04:05Z, or how long ago, such as 90m)", text)}
	}
	if t.UnixMilli() < 0 {
		return 0, usageError{fmt.Errorf("--to-time: %s lies before 1970, when no record was written", text)}
	}
	return t.UnixMilli(), nil
}

// resetTarget is where to: one flag and its number, in milliseconds since 1970 for --to-time.
type resetTarget struct {
	flag   string
	number int64
}

// logRange is what a plan needs to know of one partition.
type logRange struct {
	partition
	old        *int64 // committed; nil: nothing
	start, end int64  // of the log; end is the next record's offset
	atTime     int64  // for --to-time: the first record's offset; -1: there is none
}

// resetRow is one partition of floe group reset.
type resetRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Old       *int64 `json:"old"` // nil: nothing was committed
	New       int64  `json:"new"`
	LogStart  int64  `json:"logStart"`
	LogEnd    int64  `json:"logEnd"`
	Note      string `json:"note"` // why New is not what was asked for; empty: it is
}

// planReset works out the new offsets; all lie within the logs.
func planReset(t resetTarget, logs []logRange) ([]resetRow, error) {
	rows := make([]resetRow, 0, len(logs))
	for _, l := range logs {
		row := resetRow{Topic: l.topic, Partition: l.id, Old: l.old, LogStart: l.start, LogEnd: l.end}
		switch t.flag {
		case "--to-earliest":
			row.New = l.start
		case "--to-latest":
			row.New = l.end
		case "--to-offset":
			row.New = t.number
		case "--to-time":
			if row.New = l.atTime; l.atTime < 0 {
				row.New, row.Note = l.end, "no record that late: the log's end"
			}
		case "--shift-by":
			if l.old == nil {
				return nil, fmt.Errorf("--shift-by: nothing is committed for %s (leave it out of --topic, or give --to-earliest or --to-latest)", l.partition)
			}
			row.New = shifted(*l.old, t.number)
		}
		row.clamp()
		rows = append(rows, row)
	}
	return rows, nil
}

// shifted adds without overflow: the log's range decides in the end.
func shifted(old, by int64) int64 {
	sum := old + by
	if by > 0 && sum < old {
		return 1<<63 - 1
	}
	return sum // old is not negative, so a negative by cannot overflow
}

func (row *resetRow) clamp() {
	switch {
	case row.New < row.LogStart:
		row.Note = fmt.Sprintf("%d is before the log's start", row.New)
		row.New = row.LogStart
	case row.New > row.LogEnd:
		row.Note = fmt.Sprintf("%d is beyond the log's end", row.New)
		row.New = row.LogEnd
	}
}
