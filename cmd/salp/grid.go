package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// grid is a table in columns. Colours do not count for the widths.
type grid struct {
	right []bool // columns whose cells are aligned to the right, as numbers are
	rows  [][]gridCell
}

// gridCell is a piece of text, and how to paint it.
type gridCell struct {
	text  string
	paint func(string) string // nil: as it is
}

// newGrid begins a table with a line of headings; one that ends in a space belongs to a column of numbers.
func newGrid(paint func(string) string, headings ...string) *grid {
	g := &grid{}
	var row []gridCell
	for _, h := range headings {
		text := strings.TrimSuffix(h, " ")
		g.right = append(g.right, text != h)
		row = append(row, gridCell{text, paint})
	}
	g.rows = append(g.rows, row)
	return g
}

// row adds a line; a cell is a string or a gridCell.
func (g *grid) row(cells ...any) {
	var row []gridCell
	for _, c := range cells {
		if text, plain := c.(string); plain {
			row = append(row, gridCell{text, nil})
		} else {
			row = append(row, c.(gridCell))
		}
	}
	g.rows = append(g.rows, row)
}

// least is how narrow a column may become, in characters.
const least = 8

// lines returns the table, at most so many characters wide: the widest columns of text are cut until it fits. Columns of numbers never are.
func (g *grid) lines(most int) []string {
	widths := make([]int, len(g.right))
	for _, row := range g.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for tableWidth(widths) > most {
		widest := -1
		for i, w := range widths {
			if !g.right[i] && w > least && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	var lines []string
	for _, row := range g.rows {
		var b strings.Builder
		for i, c := range row {
			text := cut(c.text, widths[i])
			blank := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if c.paint != nil {
				text = c.paint(text)
			}
			if g.right[i] {
				text, blank = blank+text, ""
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(blank + "  ")
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// print writes the table.
func (g *grid) print(w io.Writer, most int) {
	for _, line := range g.lines(most) {
		_, _ = io.WriteString(w, line+"\n") // a terminal that is gone needs no table
	}
}

func tableWidth(widths []int) int {
	n := 2 * (len(widths) - 1)
	for _, w := range widths {
		n += w
	}
	return n
}

// cut returns at most so many characters of a text, and shows that there are more.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	runes := []rune(text)
	return string(runes[:max(most-1, 0)]) + "…"
}
