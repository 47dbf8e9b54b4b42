// zctl submit: a job from a file or from flags, and with --wait, its first run.

package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

// submission is the result of zctl submit.
type submission struct {
	Job     string `json:"job"`
	Outcome string `json:"outcome"`
}

func (p *program) submitCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var following followFlags
	var file string
	var job jobFlags
	var wait bool
	command := &cobra.Command{
		Use:     "submit (-f FILE | --from HOST:FILESYSTEM[<] --to HOST:ROOT) [--wait]",
		GroupID: groupReplicate,
		Short:   "Submit a job; with --wait, run it and show progress until it is done",
		Long: `Submit puts a job among the fleet's jobs, in place of one of the same name. It runs when
"zctl run" or --wait asks for it.

With -f the job comes from a YAML file (docs/configuration.md), "-" being standard input.
With --from and --to it is made from flags: HOST:tank/data is that filesystem alone, and
HOST:'tank/data<' all that is below it too. Filesystems land at ROOT/<source path>.`,
		Example: `  zctl submit -f prod.yaml
  zctl submit --from 'alpha:tank/data<' --to bravo:backup/alpha --wait`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			submitted, err := p.jobOf(file, job)
			if err != nil {
				return err
			}
			ctx, s, err := p.open(command.Context(), "submit", connection)
			if err != nil {
				return err
			}
			defer s.close()
			done, err := s.SubmitJob(ctx, submitted)
			if err != nil {
				return err
			}
			if !wait {
				return p.print(output, submission{Job: submitted.Name, Outcome: string(done)}, func(w io.Writer) {
					_, _ = fmt.Fprintf(w, "job %s: %s; run it with: zctl run %s --wait\n", submitted.Name, done, submitted.Name)
				})
			}
			if err := p.say(output, "job %s: %s", submitted.Name, done); err != nil {
				return err
			}
			id, err := s.Run(ctx, submitted.Name)
			if err != nil {
				return err
			}
			return p.follow(ctx, s, id, output, following)
		},
	}
	command.Flags().StringVarP(&file, "file", "f", "", `job file; "-" is standard input`)
	job.add(command)
	command.Flags().BoolVar(&wait, "wait", false, "run the job now and wait until it is done")
	following.add(command)
	connection.add(command)
	output.add(command)
	return command
}

// jobFlags describe a job without a file.
type jobFlags struct {
	name        string
	from        []string
	exclude     []string
	to          []string
	initial     string
	transport   string
	include     string
	compression string
	limit       string
}

func (f *jobFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVar(&f.from, "from", nil, `source, HOST:FILESYSTEM, with "<" at the end for all below it too; may be repeated`)
	flags.StringArrayVar(&f.to, "to", nil, "target, HOST:ROOT; may be repeated")
	flags.StringArrayVar(&f.exclude, "exclude", nil, `filesystem to leave out, with "<" at the end for all below it too; may be repeated`)
	flags.StringVar(&f.name, "job", "", "name of the job (default: made from --from and --to)")
	flags.StringVar(&f.initial, "initial", "", "what a target without the filesystem gets: most_recent, all or fail (default most_recent)")
	flags.StringVar(&f.transport, "transport", "", "auto, tcp, object or local (default auto)")
	flags.StringVar(&f.compression, "compression", "",
		"none, zstd, or zstd-1 to zstd-19: what is done to streams between hosts (default none)")
	flags.StringVar(&f.limit, "limit", "",
		"how much all steps of the job together may send in a second, like 20MiB; more in a job file (default: no limit)")
	flags.StringVar(&f.include, "snapshots", "", "regular expression that names of replicated snapshots match (default: all)")
}

func (f jobFlags) given() bool {
	return f.name != "" || len(f.from) > 0 || len(f.to) > 0 || len(f.exclude) > 0 || f.initial != "" || f.transport != "" || f.include != "" ||
		f.compression != "" || f.limit != ""
}

// jobOf reads the job from the file, or makes it from the flags.
func (p *program) jobOf(file string, flags jobFlags) (protocol.Job, error) {
	switch {
	case file != "" && flags.given():
		return protocol.Job{}, protocol.Usagef("use either -f or the flags that describe a job (--from, --to, …), not both")
	case file == "-":
		text, err := io.ReadAll(p.in)
		if err != nil {
			return protocol.Job{}, fmt.Errorf("read the job from standard input: %w", err)
		}
		return protocol.ParseJob(text)
	case file != "":
		text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
		if err != nil {
			return protocol.Job{}, protocol.Usagef("job file: %w", err)
		}
		job, err := protocol.ParseJob(text)
		if err != nil {
			return protocol.Job{}, protocol.Usagef("%s: %w", file, err)
		}
		return job, nil
	case !flags.given():
		return protocol.Job{}, protocol.Usagef("say which job: with -f FILE, or with --from HOST:FILESYSTEM and --to HOST:ROOT")
	}
	return flags.job()
}

func (f jobFlags) job() (protocol.Job, error) {
	job := protocol.DefaultJob()
	job.Source.Filesystems = protocol.Filter{}
	if len(f.from) == 0 || len(f.to) == 0 {
		return job, protocol.Usagef("a job needs a source and a target: --from HOST:FILESYSTEM and --to HOST:ROOT")
	}
	for _, from := range f.from {
		host, pattern, err := splitPlace("--from", from)
		if err != nil {
			return job, err
		}
		if job.Source.Host != "" && job.Source.Host != host {
			return job, protocol.Usagef("--from: a job has one source host, and %s and %s are two; submit a job for each", job.Source.Host, host)
		}
		job.Source.Host = host
		job.Source.Filesystems[pattern] = true
	}
	for _, pattern := range f.exclude {
		job.Source.Filesystems[pattern] = false
	}
	for _, to := range f.to {
		host, root, err := splitPlace("--to", to)
		if err != nil {
			return job, err
		}
		job.Targets = append(job.Targets, protocol.JobTarget{Host: host, Root: root})
	}
	if f.initial != "" {
		job.Replication.Initial = protocol.InitialPolicy(f.initial)
	}
	if f.transport != "" {
		job.Replication.Transport = protocol.Transport(f.transport)
	}
	if f.compression != "" {
		job.Replication.Compression = protocol.Compression(f.compression)
	}
	if f.limit != "" {
		limit, err := protocol.ParseByteSize(f.limit)
		if err != nil {
			return job, protocol.Usagef("--limit: %w", err)
		}
		job.Send.BandwidthLimit.Default = limit
	}
	job.Snapshots.Include = f.include
	job.Name = f.name
	if job.Name == "" {
		job.Name = f.defaultName(job)
	}
	return job, job.Validate()
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_.:-]+`)

// defaultName is the same whenever the same is replicated to the same places, since the job's name is in its cursors.
func (f jobFlags) defaultName(job protocol.Job) string {
	_, first, _ := strings.Cut(f.from[0], ":")
	source := notInNames.ReplaceAllString(strings.TrimSuffix(first, "<"), "-")
	targets := make([]string, 0, len(job.Targets))
	for _, target := range job.Targets {
		targets = append(targets, string(target.Host))
	}
	return fmt.Sprintf("%s-%s-to-%s", job.Source.Host, source, strings.Join(targets, "-"))
}

// splitPlace takes HOST:DATASET apart. A dataset may have colons, a host has none.
func splitPlace(flag, place string) (protocol.Host, string, error) {
	name, dataset, found := strings.Cut(place, ":")
	if !found || dataset == "" {
		return "", "", protocol.Usagef("%s %q: write it as HOST:FILESYSTEM", flag, place)
	}
	host, err := protocol.ParseHost(name)
	if err != nil {
		return "", "", protocol.Usagef("%s %q: %w", flag, place, err)
	}
	return host, dataset, nil
}
