"""What happens to an object after it was acknowledged: series, jobs, results, deliveries."""
