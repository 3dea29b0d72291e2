package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/metadata/retry"
)

// levelEvery is how often the agent that sweeps looks whether the level may rise. Looking costs the
// metadata store nothing: agents and level are mirrored.
const levelEvery = 5 * time.Second

// levels follows the cluster's level, and raises it.
type levels struct {
	a      *Agent
	mirror *mirror.Mirror[level.Level, level.Level]
	at     atomic.Int32 // the greatest level that was seen
	since  time.Time    // from when on all agents read a higher level; zero: they do not
	held   string       // why the level could not rise, as it was logged last

	refusals *prometheus.CounterVec // calls of other agents, by reason
}

// newLevels starts from the level that the cluster was read with.
func newLevels(a *Agent, at level.Level) *levels {
	l := &levels{a: a, refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "floe_peer_refused_total",
		Help: "Calls of other agents that were refused: of another cluster, with a wrong token, or with none."}, []string{"reason"})}
	for _, why := range peer.Refusals() { // from the start, so that a rate sees the first one
		l.refusals.WithLabelValues(why)
	}
	l.at.Store(int32(at))
	l.mirror = mirror.New(mirror.Config[level.Level, level.Level]{
		Store: a.parts.Meta, Prefix: a.keys.Cluster(), Name: "level",
		Decode: func(_ string, value []byte) (level.Level, error) { return level.Of(value) },
		Fold:   l.fold,
		Pacer:  retry.NewPacer(rand.Reader), Log: a.parts.Log,
	})
	return l
}

// fold notes the newest level, and returns the one that is stored. A level never falls, so one that is
// lower, as that of a recovery that began or of a metadata store that was restored, changes nothing of what is
// written: look raises it again.
func (l *levels) fold(stored level.Level, changes []mirror.Change[level.Level]) level.Level {
	for _, c := range changes {
		if c.New == nil {
			continue
		}
		if stored = *c.New; stored <= l.now() {
			continue
		}
		if !c.New.Known() {
			l.a.parts.Log.Error("the cluster's level is not known to this release: it cannot read what others write; run a newer release here",
				"level", *c.New, "reads", level.Own().String())
			continue
		}
		l.a.parts.Log.Info("the cluster's format level has risen", "level", *c.New)
		l.at.Store(int32(*c.New))
	}
	return stored
}

// fallen reports whether the stored level is lower than the one that is written: an older release could
// come, and would not be able to read what is there.
func (l *levels) fallen() bool {
	stored := l.mirror.View().State
	return stored >= level.First && stored < l.now()
}

// now returns the level that this agent writes at.
func (l *levels) now() level.Level { return level.Level(l.at.Load()) }

// formats returns the versions that this agent writes.
func (l *levels) formats() level.Formats { return l.now().Formats() }

// tokens reports whether other agents must show the cluster's secret.
func (l *levels) tokens() bool { return l.formats().RPC >= 2 }

// refused counts a call of another agent that was refused.
func (l *levels) refused(why string) { l.refusals.WithLabelValues(why).Inc() }

// want returns the level that the cluster may rise to: the greatest that every live agent reads,
// and that the settings allow.
func (l *levels) want() level.Level {
	to := level.Newest
	if limit := level.Level(l.a.cfg.FormatLevel); limit != 0 {
		to = min(to, limit)
	}
	for _, agent := range l.a.agents.View().All() {
		to = min(to, agent.Levels.Max)
	}
	return to
}

// look raises the level if all agents have read a higher one for long enough: until then
// the release before can come back.
//
// A level that has fallen, with a metadata store that was restored, rises at once to what is written.
func (l *levels) look(ctx context.Context, now time.Time) {
	to := l.want()
	switch {
	case l.fallen():
		to = l.now()
	case to <= l.now():
		l.since = time.Time{}
		return
	case l.since.IsZero():
		l.since = now
		l.a.parts.Log.Info("all agents read a higher format level", "level", l.now(), "next", to, "rises_in", l.a.cfg.FormatLevelAfter)
		fallthrough
	default:
		if now.Sub(l.since) < l.a.cfg.FormatLevelAfter {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, levelEvery)
	defer cancel()
	err := membership.RaiseLevel(ctx, l.a.parts.Meta, l.a.keys, to, catalogue.AtLevel)
	switch {
	case err == nil:
		l.held = ""
	case err.Error() != l.held:
		l.held = err.Error()
		l.a.parts.Log.Warn("the format level could not be raised", "to", to, "err", err)
	}
}

// raiseLevels goes on until ctx ends, at the agent that leads shard 0.
func (a *Agent) raiseLevels(ctx context.Context) {
	every := max(time.Millisecond, min(levelEvery, cmp.Or(a.cfg.FormatLevelAfter/4, levelEvery)))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if a.set.Leader(0) != nil {
				a.levels.look(ctx, time.Now())
			}
		case <-ctx.Done():
			return
		}
	}
}

// registerLevel exposes the level, and what is refused because of it.
func (a *Agent) registerLevel() error {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return errors.Join(
		a.parts.Registry.Register(a.levels.refusals),
		a.parts.Registry.Register(gauge("floe_format_level", "Format level that this agent writes at; the same for all agents but for a moment.",
			func() float64 { return float64(a.levels.now()) })),
		a.parts.Registry.Register(gauge("floe_format_level_newest", "Greatest format level that this agent's release reads and writes.",
			func() float64 { return float64(level.Newest) })),
	)
}

// checkLevel refuses a limit that this release does not know.
func (cfg *Config) checkLevel() error {
	if cfg.FormatLevel != 0 && !level.Level(cfg.FormatLevel).Known() {
		return fmt.Errorf("%w: format level %d: this release knows %s", metadata.ErrInvalid, cfg.FormatLevel, level.Own())
	}
	return nil
}
