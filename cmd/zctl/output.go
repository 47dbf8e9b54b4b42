// Output: results as tables for people, and as JSON or YAML for programs.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

// outputFormat is the form of a result. It is a flag's value.
type outputFormat string

const (
	outputTable outputFormat = "table"
	outputJSON  outputFormat = "json"
	outputYAML  outputFormat = "yaml"
)

// String is the format's name.
func (f *outputFormat) String() string { return string(*f) }

// Set takes the format from the command line.
func (f *outputFormat) Set(text string) error {
	switch outputFormat(text) {
	case outputTable, outputJSON, outputYAML:
		*f = outputFormat(text)
		return nil
	}
	return protocol.Usagef("use %s, %s or %s", outputTable, outputJSON, outputYAML)
}

// Type is shown in the help.
func (f *outputFormat) Type() string { return "table|json|yaml" }

func (f *outputFormat) add(command *cobra.Command) {
	*f = outputTable
	command.Flags().VarP(f, "output", "o", "form of the result")
}

// print writes the value as JSON or YAML, or what table writes.
func (p *program) print(format outputFormat, value any, table func(w io.Writer)) error {
	var out bytes.Buffer
	switch format {
	case outputTable:
		table(&out)
	case outputJSON:
		encoder := json.NewEncoder(&out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
	case outputYAML:
		text, err := toYAML(value)
		if err != nil {
			return err
		}
		out.Write(text)
	}
	if _, err := p.out.Write(out.Bytes()); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// toYAML writes the value with the names and texts of its JSON.
func toYAML(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("print the result: %w", err)
	}
	text, err = yaml.JSONToYAML(text)
	if err != nil {
		return nil, fmt.Errorf("print the result: %w", err)
	}
	return text, nil
}

// say writes a line for people to standard output, unless the result goes to a program.
func (p *program) say(format outputFormat, text string, args ...any) error {
	if format != outputTable {
		return nil
	}
	if _, err := fmt.Fprintf(p.out, text+"\n", args...); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// when is a time for people; empty for the zero time.
func (p *program) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(p.location).Format("2006-01-02 15:04:05")
}

// printed is the error of printing, or else that of what came before it: a result may be there in part.
func printed(printing, before error) error {
	if printing != nil {
		return printing
	}
	return before
}
