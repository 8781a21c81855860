package pipeline

import "github.com/ThreeDotsLabs/watermill/message"

// Source is where events come from: Watermill's Subscriber, whose messages carry a Batch of event records (BatchOf). An ack
// means that the broker has every record of the batch, a nack that it has not (the broker is away): the source keeps the
// batch, or tells its client to come again. Subscribe is called once, with the topic `events`.
type Source interface {
	message.Subscriber
}

// Resumer is a source that can go on where it was. The engine stores Batch.Position in the transaction that produces the
// batch, so no record of it is produced twice. Such a source runs in one process, the one that owns partition 0 of `events`.
type Resumer interface {
	Source
	// Resume is called once before Subscribe with the last committed position, nil at the first start. A position that does
	// not fit what the source finds (a file that shrank) is an error that names both.
	Resume(position []byte) error
}
