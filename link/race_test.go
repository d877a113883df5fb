//go:build race

package link

// With the race detector sync.Pool forgets some of what it is given, on purpose.
const poolForgets = true
