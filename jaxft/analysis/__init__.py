"""What fine-tuning changed, on anyone's parameter trees and tables."""
