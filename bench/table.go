package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// table is a title, a heading and lines of as many cells. The first column stands left, the others but the last right.
type table struct {
	title string
	head  []string
	rows  [][]string
}

// text writes the table in columns for a terminal.
func (t table) text(b *strings.Builder) {
	fmt.Fprintln(b, t.title)
	widths := t.widths()
	for _, line := range append([][]string{t.head}, t.rows...) {
		fmt.Fprintln(b, strings.TrimRight("  "+strings.Join(t.pad(line, widths), "  "), " "))
	}
}

// markdown writes the table as GitHub's Markdown has them.
func (t table) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "### %s\n\n", t.title)
	widths := t.widths()
	fmt.Fprintf(b, "| %s |\n|", strings.Join(t.pad(t.head, widths), " | "))
	for i, w := range widths {
		rule := strings.Repeat("-", w+2)
		if t.right(i) {
			rule = strings.Repeat("-", w+1) + ":"
		}
		b.WriteString(rule + "|")
	}
	b.WriteString("\n")
	for _, line := range t.rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(t.pad(line, widths), " | "))
	}
}

func (t table) right(column int) bool { return column > 0 && column < len(t.head)-1 }

func (t table) widths() []int {
	widths := make([]int, len(t.head))
	for _, line := range append([][]string{t.head}, t.rows...) {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

func (t table) pad(line []string, widths []int) []string {
	cells := make([]string, len(line))
	for i, cell := range line {
		blanks := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if t.right(i) {
			cells[i] = blanks + cell
		} else {
			cells[i] = cell + blanks
		}
	}
	return cells
}
