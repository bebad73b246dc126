package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// page prints what people read: plain text, with colour when wanted.
type page struct {
	out   io.Writer
	color bool
}

func (p *page) paint(sgr, text string) string {
	if !p.color || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (p *page) bold(text string) string { return p.paint("1", text) }
func (p *page) dim(text string) string  { return p.paint("2", text) }
func (p *page) good(text string) string { return p.paint("32", text) }
func (p *page) warn(text string) string { return p.paint("33", text) }
func (p *page) cyan(text string) string { return p.paint("36", text) }

// line prints one line. Nobody can do anything about a terminal that is gone: the demo goes on to its end and cleans up.
func (p *page) line(format string, args ...any) {
	_, _ = io.WriteString(p.out, strings.TrimRight(fmt.Sprintf(format, args...), " ")+"\n")
}

func (p *page) blank() { p.line("") }

// heading starts a section.
func (p *page) heading(number int, title, summary string) {
	p.blank()
	p.line("%s  %s", p.cyan(p.bold(fmt.Sprintf("%2d", number))), p.bold(title))
	if summary != "" {
		p.line("    %s", summary)
	}
}

// block prints lines of a file or of kernel state, set off from the text.
func (p *page) block(lines []string) {
	for _, l := range lines {
		p.line("      %s", p.dim(l))
	}
}

// findings prints what a kernel holds, each with what it is; long ones have the remark on the next line.
func (p *page) findings(all []finding) {
	const wide, column = 100, 52
	for _, f := range all {
		head := fmt.Sprintf("%-10s %s", f.kind, f.text)
		switch n := utf8.RuneCountInString(head); {
		case f.remark == "":
			p.line("      %s", head)
		case n+utf8.RuneCountInString(f.remark) > wide:
			p.line("      %s", head)
			p.line("      %-10s %s", "", p.dim("("+f.remark+")"))
		default:
			p.line("      %s%s", head, strings.Repeat(" ", max(column-n, 0))+"   "+p.dim("("+f.remark+")"))
		}
	}
}

// cell is a piece of a table with its colour.
type cell struct {
	text  string
	paint func(string) string
}

func plain(text string) cell { return cell{text, func(s string) string { return s }} }

// table prints rows with aligned columns.
func (p *page) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		b.WriteString("    ")
		for i, c := range row {
			b.WriteString(c.paint(c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+3))
			}
		}
		p.line("%s", b.String())
	}
}
