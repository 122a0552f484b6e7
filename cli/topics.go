package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
)

// topicFlags say how topics are made.
type topicFlags struct {
	partitions  int32
	replication int16
	minISR      int
}

func (e *Env) topicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "Make the service's topics, or check their settings",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var f topicFlags
	create := &cobra.Command{
		Use:   "create [TOPIC...]",
		Short: "Make inbox and journal, and public topics by name",
		Long: `Make the service's inbox and journal, with settings under which nothing is lost; and the public TOPICs that are named, for
run --publish. Those that are there stay as they are, and must have as many partitions: that number never changes.`,
		Example: e.examples("topics create --partitions 8 --log kafka://broker:9092", "topics create --replication 3 --min-isr 2 bank.events"),
		RunE:    func(cmd *cobra.Command, args []string) error { return e.createTopics(cmd.Context(), &f, args) },
	}
	create.Flags().Int32Var(&f.partitions, "partitions", 4, "how many partitions, `N`")
	create.Flags().Int16Var(&f.replication, "replication", 0, "on how many brokers each is kept, `R`; 0 is 3, or as many as there are")
	create.Flags().IntVar(&f.minISR, "min-isr", 0, "how many of these must have a record before it counts, `N`; 0 is 2 of 3, else 1")
	check := &cobra.Command{
		Use:   "check",
		Short: "Look for settings under which records are lost",
		Long: `Look for settings of the service's topics under which records are lost or come late: retention, compaction, unclean
elections, too few replicas, other times than the log's. With one that the service would refuse the exit code is 1.`,
		Example: e.examples("topics check --log kafka://broker:9092", "topics check --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.checkTopics(cmd.Context()) },
	}
	cmd.AddCommand(create, check)
	return cmd
}

// topicAnswer is a topic.
type topicAnswer struct {
	Topic      string `json:"topic"`
	Partitions int32  `json:"partitions"`
	ID         string `json:"id"`
	Cluster    string `json:"cluster"`
}

// own returns the names of the service's topics.
func (e *Env) own() []string {
	return []string{wire.Inbox(e.app.Service.Name), wire.Journal(e.app.Service.Name)}
}

func (e *Env) createTopics(ctx context.Context, f *topicFlags, more []string) (err error) {
	if f.partitions < 1 || f.replication < 0 || f.minISR < 0 {
		return Usagef("--partitions must be 1 or more, --replication and --min-isr 0 or more")
	}
	w, err := e.where()
	if err != nil {
		return err
	}
	if k, err := kindOf(w.file()); err == nil && k == anArchive {
		return Usagef("%s is an archive: it has the topics that it was made of", w)
	}
	db := &Database{at: w}
	defer db.CloseInto(&err)
	if w.db == "" && w.log != w.store {
		db.at.store = "" // it need not be there
	}
	if err := e.connect(ctx, db, true); err != nil {
		return err
	}
	names := append(e.own(), more...)
	if err := makeTopics(ctx, db.Log, f, names); err != nil {
		return err
	}
	for _, name := range names {
		t, err := db.Log.Topic(ctx, name)
		if err != nil {
			return err
		}
		if err := e.printTopic(topicAnswer{t.Name, t.Partitions, t.ID, t.Cluster}); err != nil {
			return err
		}
	}
	return nil
}

func makeTopics(ctx context.Context, log driver.Log, f *topicFlags, names []string) error {
	switch log := log.(type) {
	case *kafka.Log:
		topics := make([]kafka.TopicConfig, len(names))
		for i, name := range names {
			topics[i] = kafka.TopicConfig{Name: name, Partitions: f.partitions, Replication: f.replication}
			if f.minISR > 0 {
				topics[i].Settings = map[string]string{"min.insync.replicas": strconv.Itoa(f.minISR)}
			}
		}
		return log.CreateTopics(ctx, topics...)
	case driver.Importer:
		if f.replication > 0 || f.minISR > 0 {
			return Usagef("--replication and --min-isr are Kafka's: this log has neither")
		}
		var errs []error
		for _, name := range names {
			errs = append(errs, log.CreateTopic(ctx, name, f.partitions))
		}
		return errors.Join(errs...)
	}
	return Usagef("this log makes its topics by itself")
}

func (e *Env) printTopic(t topicAnswer) error {
	if e.json {
		return e.Answer(t)
	}
	_, err := fmt.Fprintf(e.Stdout, "%s  %s  id %s in %s\n", e.paint(bold, t.Topic), plural(int64(t.Partitions), "partition"), t.ID, t.Cluster)
	return err
}

// findingAnswer is a setting that is not as it should be.
type findingAnswer struct {
	Topic   string `json:"topic"`
	Setting string `json:"setting"`
	Value   string `json:"value"`
	Want    string `json:"want"`
	Why     string `json:"why"`
	Fatal   bool   `json:"fatal"`
}

// findings asks a log that has settings about the service's topics.
func (e *Env) findings(ctx context.Context, db *Database) ([]kafka.Finding, error) {
	log, ok := db.Log.(*kafka.Log)
	if !ok {
		return nil, nil
	}
	return log.Check(ctx, e.own()...)
}

func (e *Env) checkTopics(ctx context.Context) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if _, missing := db.Log.(*readLog); missing {
		return Nof("the topics are not there; `%s` makes them", e.hint("topics create"))
	}
	findings, err := e.findings(ctx, db)
	if err != nil {
		return err
	}
	var fatal int64
	for _, f := range findings {
		word := e.paint(yellow, "warning")
		if f.Fatal {
			fatal++
			word = e.paint(red, "fatal  ")
		}
		if e.json {
			err = e.Answer(findingAnswer{f.Topic, f.Setting, f.Value, f.Want, f.Why, f.Fatal})
		} else {
			_, err = fmt.Fprintf(e.Stdout, "%s  %s  %s is %s, want %s: %s\n", word, f.Topic, f.Setting, f.Value, f.Want, f.Why)
		}
		if err != nil {
			return err
		}
	}
	e.Notef("%s", plural(int64(len(findings)), "finding"))
	if fatal > 0 {
		return Nof("with %s of them the service would not run", plural(fatal, "setting"))
	}
	return nil
}
