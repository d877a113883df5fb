package capture

import (
	"context"
	"io"
)

// streamBatch is how many records are written between two looks at what is left.
const streamBatch = 64

// Stream captures to w as pcapng until ctx is done, count frames were written (0: no limit),
// or w fails. It writes at once what there is, and the counts at the end; it
// stops reading, never the wire, while w takes nothing.
func Stream(ctx context.Context, w io.Writer, cfg Config, sec Section, count uint64, points ...*Point) error {
	sec.SnapLen, sec.Filter = cfg.SnapLen, cfg.Filter.String()
	if sec.Split {
		cfg.SnapLen = 0
	}
	for _, p := range points {
		sec.Interfaces = append(sec.Interfaces, Describe(p))
	}
	c, err := Start(cfg, points...)
	if err != nil {
		return err
	}
	defer c.Stop()
	out, err := NewWriter(w, sec)
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, c.Stop)()
	recs := make([]Record, streamBatch)
	for done := false; !done; {
		n, err := c.Read(recs)
		if err == io.EOF {
			break
		}
		for i := range recs[:n] {
			if err := out.Write(&recs[i]); err != nil {
				return err
			}
			if done = count > 0 && out.Packets() >= count; done {
				break
			}
		}
		if c.Empty() {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	c.Stop()
	counts := make([]Counts, len(points))
	for i := range counts {
		counts[i] = c.Counts(i)
	}
	return out.Close(counts)
}
