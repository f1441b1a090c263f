function klrpLive(element, weights, settings) {}
