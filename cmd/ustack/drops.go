package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/ustack/ustack/link"
)

// tellDrops logs what a wire drops, until ctx ends.
func tellDrops(ctx context.Context, dev link.Device, log *slog.Logger) {
	drops := link.DropLog{Logger: log, What: "link", Name: dev.Info().Name}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			drops.Look(now, dev.Stats().Drops)
		}
	}
}
