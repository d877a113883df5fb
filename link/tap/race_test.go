//go:build race

package tap

// With the race detector sync.Pool forgets some of what it is given, on purpose.
const poolForgets = true
