//go:build !race

package tap

const poolForgets = false
