package etcd

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// noise are warnings and errors of a healthy server that call for nothing: they tell of
// the first second of a new member, of refusals that the caller is told too, and of
// login tokens, which an embedded server does not have.
var noise = map[string]bool{
	"Failed to detect schema version":              true,
	"failed to update storage version":             true,
	"failed to apply request":                      true,
	"simple token is not cryptographically signed": true,
	"Running http and grpc server on single port. This is not recommended for production.": true,
}

// noiseEnd ends a warning that names its member: on a busy machine a new member wants to be
// elected before it has made itself the one member, and tries again.
const noiseEnd = " since there are still pending configuration changes to apply"

// zapLogger returns a logger for etcd that hands what is at least as bad as level to
// logger, but for noise and for what comes when quiet is set; a nil logger gets nothing.
func zapLogger(logger *slog.Logger, level zapcore.Level, quiet *atomic.Bool) *zap.Logger {
	if logger == nil {
		return zap.NewNop()
	}
	return zap.New(&bridge{logger.Handler(), level, quiet})
}

// bridge is a zapcore.Core that writes to a slog.Handler.
type bridge struct {
	handler slog.Handler
	level   zapcore.Level
	quiet   *atomic.Bool // may be nil
}

func (b *bridge) Enabled(level zapcore.Level) bool { return level >= b.level }

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{b.handler.WithAttrs(attrs(fields)), b.level, b.quiet}
}

func (b *bridge) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) && !noise[e.Message] && !strings.HasSuffix(e.Message, noiseEnd) && (b.quiet == nil || !b.quiet.Load()) {
		return checked.AddCore(e, b)
	}
	return checked
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	ctx := context.Background() // zap has none
	if !b.handler.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, "etcd: "+e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return b.handler.Handle(ctx, r)
}

func (b *bridge) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
