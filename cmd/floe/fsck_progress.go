package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// progress draws a bar on a terminal, and nothing elsewhere. It may be used concurrently.
type progress struct {
	w io.Writer // nil: no terminal

	mu    sync.Mutex // guards the following
	at    time.Time  // of the last drawing
	drawn int        // columns
	stage string
	began time.Time // of the stage
}

const (
	barWidth  = 30
	drawEvery = 100 * time.Millisecond // often enough to be seen moving
)

// newProgress returns a bar for w, if that is a terminal.
func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	if !ok {
		return &progress{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{w: w}
}

// show draws how far a stage has come; a total of 0 is not known.
func (p *progress) show(stage string, done, total int64) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if stage != p.stage {
		p.stage, p.began, p.at = stage, now, time.Time{}
	}
	if now.Sub(p.at) < drawEvery && done != total {
		return
	}
	p.at = now
	p.draw(barText(stage, done, total, now.Sub(p.began)))
}

// barText is one line: the stage, a bar, the numbers, and when it will be done.
func barText(stage string, done, total int64, took time.Duration) string {
	if total == 0 {
		return fmt.Sprintf("%-14s %d", stage, done)
	}
	n := int(barWidth * min(done, total) / total)
	text := fmt.Sprintf("%-14s [%s%s] %d of %d", stage, strings.Repeat("=", n), strings.Repeat(" ", barWidth-n), done, total)
	if done > 0 && done < total && took > time.Second {
		left := time.Duration(float64(took) / float64(done) * float64(total-done))
		text += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	return text
}

// draw writes over the line before. That it cannot be written is no reason to stop a check.
func (p *progress) draw(text string) {
	_, _ = fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", max(0, p.drawn-len(text))))
	p.drawn = len(text)
}

// end removes the bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w != nil && p.drawn > 0 {
		_, _ = fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.drawn))
		p.drawn = 0
	}
}
