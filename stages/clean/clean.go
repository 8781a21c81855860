// Package clean is the stage that decides whether a record is an event, and when it happened.
//
// It refuses what no later stage could use (each refusal has a stable code), corrects the time for clocks that are wrong,
// and finds the event's identifiers. It keeps no state.
package clean

import (
	"context"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "clean",
	Task:    pipeline.TaskResolve,
	Code:    1,
	Summary: "refuses what is not an event, corrects its time, finds its identifiers",
	Config:  func() any { return &Config{} },
	Build:   build,
}

// Config of the stage.
type Config struct {
	// PhoneRegion is the country, in two letters (ISO 3166: GB), that numbers written without a country's code belong to. With
	// it, only numbers that can exist identify somebody.
	PhoneRegion string `yaml:"phone_region"`
}

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	if region := config.(*Config).PhoneRegion; region != "" {
		if p := checkRegion(region); p != nil {
			return nil, []pipeline.Problem{*p}
		}
		env.Identities.UsePhones(region, func(number string) string { return e164(number, region) })
	}
	s := &stage{identities: env.Identities}
	return func() pipeline.Stage { return s }, nil
}

// stage has no state: the partitions share one.
type stage struct{ identities *pipeline.Identities }

// Process takes an event whose record has been parsed and nothing more. Codes of its refusals: oversize, not_utf8,
// not_json, not_an_object, too_deep, field_type, id_too_long, too_many_identifiers, type_missing, type_unknown, event_missing, and those of the
// source if it could make no event of what it read.
func (s *stage) Process(_ context.Context, _ pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	if rej := ev.Refusal(); rej != nil {
		return rej
	}
	if rej := ev.Check(); rej != nil {
		return rej
	}
	rej := ev.Scan()
	// Before any refusal, so that the dead letter carries the ids by which erase finds it.
	complete := s.identities.Identify(ev)
	if rej == nil {
		rej = checkIDs(ev)
	}
	if rej == nil && !complete {
		rej = pipeline.Reject("too_many_identifiers", "the event has more than %d identifiers", pipeline.MaxIdentifiers)
	}
	if rej == nil {
		rej = checkType(ev)
	}
	if rej != nil {
		return rej
	}
	ev.Time, ev.OriginalTime = eventTime(ev)
	return emit.Event(ev)
}

// checkIDs refuses ids that would not fit into a state key. Empty ones are missing ones, and fine.
func checkIDs(ev *pipeline.Event) *pipeline.RejectError {
	for _, id := range [...]struct{ name, value string }{
		{"userId", ev.UserID}, {"anonymousId", ev.AnonymousID}, {"groupId", ev.GroupID}, {"previousId", ev.PreviousID},
		{"the message id", ev.MessageID},
	} {
		if len(id.value) > pipeline.MaxIDBytes {
			return pipeline.Reject("id_too_long", "%s has %d bytes, the limit is %d", id.name, len(id.value), pipeline.MaxIDBytes)
		}
	}
	return nil
}

func checkType(ev *pipeline.Event) *pipeline.RejectError {
	switch ev.Type {
	case pipeline.TypeTrack:
		if ev.Name == "" {
			return pipeline.Reject("event_missing", "a track event needs its name in the field event")
		}
	case pipeline.TypeIdentify, pipeline.TypePage, pipeline.TypeScreen, pipeline.TypeGroup, pipeline.TypeAlias:
	case "":
		return pipeline.Reject("type_missing", "the event has no type: write track, identify, page, screen, group or alias")
	default:
		return pipeline.Reject("type_unknown", "the type of the event is none of track, identify, page, screen, group, alias")
	}
	return nil
}
