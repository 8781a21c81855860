package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/pipeline/broker"
)

func brokerCommand() *cobra.Command {
	o := broker.EmbeddedOptions{Parent: os.Stdin}
	attached := false
	c := &cobra.Command{
		Use:     "broker",
		GroupID: "parts",
		Short:   "Run the embedded Kafka broker alone",
		Long: `Runs the embedded broker, which speaks Kafka's protocol, on a loopback address. "millstream run"
starts one by itself unless kafka.brokers is set; started alone, it can be shared by several
processes. It is made for a laptop: no replication, no fsync per write.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !attached {
				o.Parent = nil
			}
			o.Logger = newLogger()
			o.Ready = func(addr string) { fmt.Fprintf(os.Stderr, "broker %s (embedded)\n", addr) }
			if attached {
				o.Ready = nil
			}
			return serviceError(broker.RunEmbedded(c.Context(), o))
		},
	}
	c.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:9092", "loopback address to listen on; port 0 is any free one")
	c.Flags().StringVar(&o.Dir, "data", ".millstream/broker", "folder for the topics")
	c.Flags().BoolVar(&o.NextFree, "next-free", false, "take the next free port if that one is in use")
	c.Flags().BoolVar(&attached, "attached", false, "end when standard input ends")
	_ = c.Flags().MarkHidden("attached")
	return c
}

func fetchEngineCommand() *cobra.Command {
	var o chdb.FetchOptions
	c := &cobra.Command{
		Use:     "fetch-engine",
		GroupID: "parts",
		Short:   "Fetch the embedded ClickHouse engine, once",
		Long: `Lets your own npm fetch the pinned package of the ClickHouse library (about 178 MB), checks its
digest and unpacks the library to your cache folder (MILLSTREAM_CACHE, else the user's cache).
Without npm, copy the package from a machine that has it and use --from.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := fetchEngine(c.Context(), o)
			if err != nil {
				return serviceError(err)
			}
			fmt.Println(path)
			return nil
		},
	}
	c.Flags().StringVar(&o.From, "from", "", "the package (.tgz) or the library itself, instead of npm")
	return c
}

// engineChildCommand is what the embedded ClickHouse's parent starts.
func engineChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "engine-child",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return serviceError(chdb.ChildMain(c.Context(), os.Stdin))
		},
	}
}

// serviceError gives an error of something that could not be started or reached its exit status.
func serviceError(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitUnreachable, err}
}
