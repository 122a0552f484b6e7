package dejatest

// NewWorldOn is NewWorld with something between the service and its store, made anew for each life.
var NewWorldOn = newWorld
