"""How good a map is: ROC, precision and recall, IoU, region overlap. Higher score = more anomalous."""
