// Package stagetest runs stages the way the engine does, on the real state store, for tests: a suite of laws that every
// stage must keep (Suite), and scripts that show what a stage does (Script). It is imported by tests only.
package stagetest
